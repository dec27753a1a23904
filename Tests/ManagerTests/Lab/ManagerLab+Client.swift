import ManagementAPI

// The client's calls, for expectations.
extension ManagerLab {
    func submit(_ request: SubmitRequest, asUser user: UInt32? = nil) async throws -> Submitted {
        try await client(asUser: user) { try $0.submit(request) }
    }

    func programs(all: Bool, asUser user: UInt32? = nil) async throws -> [ProgramStatus] {
        try await client(asUser: user) { try $0.programs(all: all) }
    }

    func wait(_ id: UInt64, seconds: Int = 0) async throws -> ProgramStatus {
        try await client { try $0.wait(id, seconds: seconds) }
    }

    func statistics(_ id: UInt64) async throws -> ProgramStats { try await client { try $0.statistics(id) } }

    func logs(_ id: UInt64, asUser user: UInt32? = nil) async throws -> Attachment {
        try await client(asUser: user) { try $0.logs(id) }
    }

    func signal(_ id: UInt64, _ number: Int, asUser user: UInt32? = nil) async throws {
        try await client(asUser: user) { try $0.signal(id, number) }
    }

    func kill(_ component: String, asUser user: UInt32? = nil) async throws {
        try await client(asUser: user) { try $0.killComponent(component) }
    }

    func status() async throws -> RackStatus { try await client { try $0.status() } }

    /// Name and health of every component.
    func healths() async throws -> [String: String] {
        Dictionary(uniqueKeysWithValues: try await status().components.map { ($0.name, $0.health) })
    }
}
