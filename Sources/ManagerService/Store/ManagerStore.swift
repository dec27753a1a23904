import Foundation
import GRDB
import ManagementAPI
import Wire

/// The manager's durable state in SQLite. Every change is one transaction, in the database when the call returns: what is
/// in memory can be lost at any instruction. The log reaches the disk a little later (WAL with synchronous NORMAL, which
/// GRDB sets): when the host itself crashes, the newest changes may be missing, each as a whole. Calls block; never call
/// one on the concurrency pool or under a lock.
final class ManagerStore: Sendable {
    /// Why a change or a look-up failed: the disk is full or broken. `description` is for the operator.
    struct Failure: Error, CustomStringConvertible {
        let description: String
        init(_ error: any Error) { description = "the manager cannot use its state on disk: \(Self.text(error))" }

        static func text(_ error: any Error) -> String {
            (error as? DatabaseError)?.message ?? (error as? DatabaseError)?.resultCode.description ?? "\(error)"
        }
    }

    private let database: DatabaseQueue
    private let results_max: Int

    /// Opens or creates the database at `path`.
    init(path: String, results_max: Int) throws(ManagerError) {
        var configuration = Configuration()
        configuration.journalMode = .wal
        configuration.label = "manager"
        do {
            database = try DatabaseQueue(path: path, configuration: configuration)
            try Schema.migrator.migrate(database)
        } catch {
            throw .store(path: path, reason: Failure.text(error))
        }
        self.results_max = results_max
    }

    private func write<Value>(_ change: (Database) throws -> Value) throws(Failure) -> Value {
        do { return try database.write(change) } catch { throw Failure(error) }
    }

    private func read<Value>(_ query: (Database) throws -> Value) throws(Failure) -> Value {
        do { return try database.read(query) } catch { throw Failure(error) }
    }

    // MARK: Programs

    /// Records a program that is about to start; answers it with its number. `record.id` is ignored.
    func add(_ record: ProgramRecord) throws(Failure) -> ProgramRecord {
        let command = String(decoding: (try? JSONEncoder().encode(record.command)) ?? Data("[]".utf8), as: UTF8.self)
        let number = try write { database in
            try database.execute(
                sql: """
                    INSERT INTO program
                        (name, command, user, userID, processor, processorNode, isDetached, token, state)
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'running')
                    """,
                arguments: [
                    record.name, command, record.user, Int64(record.userID), record.processor,
                    Int64(bitPattern: record.processorNode.rawValue), record.isDetached, Data(record.token),
                ])
            let number = database.lastInsertedRowID
            try database.execute(
                sql: "DELETE FROM program WHERE id <= ? AND state <> 'running'",
                arguments: [number - Int64(results_max)])
            return number
        }
        var record = record
        record.id = ProgramID(rawValue: UInt64(number))
        return record
    }

    /// Records another processor for a program that runs, or is about to; false when it has ended.
    func move(_ record: ProgramRecord) throws(Failure) -> Bool {
        try write { database in
            try database.execute(
                sql: "UPDATE program SET processor = ?, processorNode = ? WHERE id = ? AND state = 'running'",
                arguments: [
                    record.processor, Int64(bitPattern: record.processorNode.rawValue),
                    Int64(bitPattern: record.id.rawValue),
                ])
            return database.changesCount > 0
        }
    }

    /// Records how programs ended; answers those for which this was news.
    func end(_ ends: [(ProgramID, ProgramEnd, ProgramStatistics)]) throws(Failure) -> [ProgramID] {
        try write { database in
            try ends.compactMap { id, end, statistics in
                try database.execute(
                    sql: """
                        UPDATE program SET state = ?, exitStatus = ?, signal = ?, reason = ?, statistics = ?
                        WHERE id = ? AND state = 'running'
                        """,
                    arguments: [
                        end.state.rawValue, end.exitStatus, end.signal, end.reason, Self.bytes(of: statistics),
                        Int64(bitPattern: id.rawValue),
                    ])
                return database.changesCount > 0 ? id : nil
            }
        }
    }

    func program(_ id: ProgramID) throws(Failure) -> ProgramRecord? {
        try read { database in
            try Row.fetchOne(
                database, sql: "SELECT * FROM program WHERE id = ?", arguments: [Int64(bitPattern: id.rawValue)]
            ).map(Self.program)
        }
    }

    /// The newest `limit` programs, oldest first.
    func programs(limit: Int) throws(Failure) -> [ProgramRecord] {
        try read { database in
            try Row.fetchAll(database, sql: "SELECT * FROM program ORDER BY id DESC LIMIT ?", arguments: [limit])
                .reversed().map(Self.program)
        }
    }

    func runningPrograms() throws(Failure) -> [ProgramRecord] {
        try read { database in
            try Row.fetchAll(database, sql: "SELECT * FROM program WHERE state = 'running' ORDER BY id").map(
                Self.program)
        }
    }

    private static func program(_ row: Row) -> ProgramRecord {
        let command: String = row["command"]
        let state = (row["state"] as String?).flatMap(ProgramStatus.State.init(rawValue:)) ?? .lost
        var record = ProgramRecord(
            id: ProgramID(rawValue: UInt64(bitPattern: row["id"] as Int64)), name: row["name"],
            command: (try? JSONDecoder().decode([String].self, from: Data(command.utf8))) ?? [], user: row["user"],
            userID: UInt32(truncatingIfNeeded: row["userID"] as Int64), processor: row["processor"],
            processorNode: NodeID(rawValue: UInt64(bitPattern: row["processorNode"] as Int64)),
            isDetached: row["isDetached"], token: [UInt8](row["token"] as Data))
        if state != .running {
            record.end = ProgramEnd(
                state: state, exitStatus: row["exitStatus"], signal: row["signal"], reason: row["reason"])
        }
        if let bytes = row["statistics"] as Data?,
            let statistics = bytes.withUnsafeBytes({ ProgramStatistics(decoding: $0) })
        {
            record.statistics = statistics
        }
        return record
    }

    private static func bytes(of statistics: ProgramStatistics) -> Data {
        // Fixed part, and a length, a name and a number for each memory component.
        let capacity = 76 + statistics.perMemory.reduce(0) { $0 + 12 + $1.memory.utf8.count }
        var data = Data(count: capacity)
        let count = data.withUnsafeMutableBytes { statistics.encode(into: $0) } ?? 0
        return data.prefix(count)
    }

    // MARK: Components

    /// Records a component (again), and the membership's epoch.
    func keep(_ components: [Component], epoch: UInt64) throws(Failure) {
        try write { database in
            for component in components {
                try database.execute(
                    sql: """
                        INSERT OR REPLACE INTO component
                            (name, kind, node, liteAddress, attachAddress, capacityBytes, processID, hostID, isLost)
                        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
                        """,
                    arguments: [
                        component.name, Int64(component.kind.rawValue), Int64(bitPattern: component.node.rawValue),
                        component.liteAddress, component.attachAddress, Int64(bitPattern: component.capacityBytes),
                        Int64(component.processID), component.hostID, component.health == .lost,
                    ])
            }
            try database.execute(
                sql: "INSERT OR REPLACE INTO counter (name, value) VALUES ('epoch', ?)",
                arguments: [Int64(bitPattern: epoch)])
        }
    }

    /// All components that were ever seen and not replaced, and the epoch that they were last recorded under.
    func components() throws(Failure) -> (components: [Component], epoch: UInt64) {
        try read { database in
            let epoch = try Int64.fetchOne(database, sql: "SELECT value FROM counter WHERE name = 'epoch'") ?? 0
            let rows = try Row.fetchAll(database, sql: "SELECT * FROM component")
            return (rows.compactMap(Self.component), UInt64(bitPattern: epoch))
        }
    }

    private static func component(_ row: Row) -> Component? {
        guard let kind = ComponentKind(rawValue: UInt8(truncatingIfNeeded: row["kind"] as Int64)) else { return nil }
        let isLost: Bool = row["isLost"]
        return Component(
            kind: kind, name: row["name"], node: NodeID(rawValue: UInt64(bitPattern: row["node"] as Int64)),
            liteAddress: row["liteAddress"], attachAddress: row["attachAddress"],
            capacityBytes: UInt64(bitPattern: row["capacityBytes"] as Int64),
            processID: UInt32(truncatingIfNeeded: row["processID"] as Int64), hostID: row["hostID"],
            health: isLost ? .lost : .suspect, isConnected: false, leaseEnd: 0)
    }
}
