-- One row for each owner reference of an object: finds what an owner owns without reading all objects.
CREATE TABLE owners (
    uid       TEXT NOT NULL,
    resource  TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    PRIMARY KEY (uid, resource, namespace, name)
) STRICT, WITHOUT ROWID;

INSERT OR IGNORE INTO owners (uid, resource, namespace, name)
SELECT json_extract(objects.value, reference.fullkey || '.uid'), objects.resource, objects.namespace, objects.name
FROM objects, json_each(objects.value, '$.metadata.ownerReferences') AS reference
WHERE json_type(objects.value, '$.metadata.ownerReferences') = 'array'
  AND json_type(objects.value, reference.fullkey || '.uid') = 'text';
