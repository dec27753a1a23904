import GRDB

/// The tables of `manager.sqlite`. A migration that a release has carried is never edited; the next one is appended.
enum Schema {
    static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1: programs, components, counters") { database in
            // AUTOINCREMENT: a number is never given out again, not even that of a deleted row.
            try database.execute(
                sql: """
                    CREATE TABLE program (
                        id INTEGER PRIMARY KEY AUTOINCREMENT,
                        name TEXT NOT NULL,
                        command TEXT NOT NULL,          -- JSON list
                        user TEXT NOT NULL,
                        userID INTEGER NOT NULL,
                        processor TEXT NOT NULL,
                        processorNode INTEGER NOT NULL, -- the 64 bits of a NodeID
                        isDetached INTEGER NOT NULL,
                        token BLOB NOT NULL,
                        state TEXT NOT NULL,            -- running, exited, lost
                        exitStatus INTEGER,
                        signal INTEGER,
                        reason TEXT,
                        statistics BLOB                 -- ProgramStatistics as on the wire
                    ) STRICT;
                    CREATE INDEX programRunning ON program(id) WHERE state = 'running';
                    CREATE TABLE component (
                        name TEXT PRIMARY KEY,
                        kind INTEGER NOT NULL,
                        node INTEGER NOT NULL,
                        liteAddress TEXT NOT NULL,
                        attachAddress TEXT NOT NULL,
                        capacityBytes INTEGER NOT NULL,
                        processID INTEGER NOT NULL,
                        hostID TEXT NOT NULL,
                        isLost INTEGER NOT NULL
                    ) STRICT;
                    CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
                    """)
        }
        return migrator
    }
}
