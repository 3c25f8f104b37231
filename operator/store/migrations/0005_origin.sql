-- One row: how often the objects went over into another store; and in a snapshot, when it was taken, of which content.
CREATE TABLE origin (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    generation INTEGER NOT NULL,
    taken      TEXT,
    content    TEXT
) STRICT;

INSERT INTO origin (id, generation) VALUES (1, 0);
