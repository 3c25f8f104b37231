-- The objects as they are. `value` is the whole object as JSON text.
CREATE TABLE objects (
    resource  TEXT    NOT NULL,
    namespace TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    revision  INTEGER NOT NULL,
    value     TEXT    NOT NULL,
    PRIMARY KEY (resource, namespace, name)
) STRICT, WITHOUT ROWID;

-- The last changes, one a revision, from which watches resume.
CREATE TABLE changes (
    revision  INTEGER PRIMARY KEY,
    resource  TEXT    NOT NULL,
    namespace TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    old       TEXT,
    new       TEXT
) STRICT;

-- One row: the revision of the last write, and that of the last change forgotten.
CREATE TABLE counters (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    revision  INTEGER NOT NULL,
    compacted INTEGER NOT NULL
) STRICT;

INSERT INTO counters (id, revision, compacted) VALUES (1, 0, 0);
