-- What an owner owns is found by an index in memory.
DROP TABLE owners;
