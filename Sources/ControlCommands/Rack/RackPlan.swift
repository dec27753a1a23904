import Glibc
import RackConfiguration

/// Which daemons a rack has, and with which arguments each is started.
struct RackPlan: Equatable {
    struct Daemon: Equatable {
        var name: String
        var kind: String
        var arguments: [String]
        var executableName: String { "lego-\(kind)" }
    }

    let stateDirectory: String
    /// In the order in which they start: the manager, then what programs depend on, then the processors.
    let manager: Daemon
    let stores: [Daemon]
    let processors: [Daemon]

    var logDirectory: String { stateDirectory + "/log" }

    init(_ settings: Settings, stateDirectory: String) throws(CommandFailure) {
        self.stateDirectory = stateDirectory
        let managerAddress = settings[RackKeys.manager]
        func level(_ name: String) -> [String] {
            [
                "--fabric", settings[RackKeys.fabric], "--log-level",
                settings[RackKeys.componentLogLevel, name: name] ?? settings[RackKeys.logLevel],
            ]
        }
        manager = Daemon(
            name: "manager", kind: "manager",
            arguments: [
                "--listen", "\(managerAddress)", "--api", "\(settings[RackKeys.api])", "--state",
                "\(stateDirectory)/manager", "--lease", TimeSpan.exact(settings[RackKeys.lease]),
            ] + level("manager"))
        // A member listens on any free port of the manager's host.
        func member(_ kind: String, _ index: Int, _ arguments: (String) -> [String]) -> Daemon {
            let name = "\(kind)\(index)"
            let listen = "\(NetworkAddress(host: managerAddress.host, port: 0))"
            return Daemon(
                name: name, kind: kind,
                arguments: ["--name", name, "--listen", listen] + arguments(name) + level(name))
        }
        let memories = (0..<settings[RackKeys.memories]).map { index in
            member("memory", index) { name in
                ["--size", "\(settings[RackKeys.componentSize, name: name] ?? settings[RackKeys.memorySize])"]
            }
        }
        let storages = (0..<settings[RackKeys.storages]).map { index in
            member("storage", index) { name in
                [
                    "--tree", settings[RackKeys.tree], "--path", settings[RackKeys.path], "--state",
                    "\(stateDirectory)/\(name)", "--hide", stateDirectory,
                ]
            }
        }
        stores = memories + storages
        processors = (0..<settings[RackKeys.processors]).map { index in
            member("processor", index) { name in
                [
                    "--excache", "\(settings[RackKeys.componentExcache, name: name] ?? settings[RackKeys.excache])",
                    "--state", "\(stateDirectory)/\(name)", "--log-size", "\(settings[RackKeys.logSize])", "--tmp-size",
                    "\(settings[RackKeys.temporarySize])",
                ]
            }
        }
        try Self.checkOverrides(settings, daemons: [manager] + stores + processors)
    }

    /// An override of a component that the rack has not, or of what it has not, is a mistake.
    private static func checkOverrides(_ settings: Settings, daemons: [Daemon]) throws(CommandFailure) {
        let names = daemons.map(\.name)
        for (name, origin) in settings.names(below: "override") {
            guard case .file(let file, let line) = origin else { continue }
            guard let daemon = daemons.first(where: { $0.name == name }) else {
                let known = byLikeness(names, to: name).joined(separator: ", ")
                throw CommandFailure("\(file):\(line): the rack has no component '\(name)'; its components: \(known)")
            }
            let own = ["memory": "size", "processor": "excache"]
            for (kind, key) in own where kind != daemon.kind {
                guard case .file(_, let line)? = settings.origin(ofPath: "override.\(name).\(key)") else { continue }
                let allowed = [own[daemon.kind], "log-level"].compactMap(\.self).joined(separator: ", ")
                throw CommandFailure(
                    "\(file):\(line): '\(key)' is nothing that a \(daemon.kind) component has; allowed for \(name): \(allowed)"
                )
            }
        }
    }

    /// The directory of the executables: the one that holds this command.
    static var executableDirectory: String {
        let path = Files.linkTarget("/proc/self/exe") ?? ""
        return path.split(separator: "/").dropLast().map { "/\($0)" }.joined()
    }
}
