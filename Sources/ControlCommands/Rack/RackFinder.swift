import ArgumentParser
import FoundationEssentials
import Glibc
import ManagementAPI
import Synchronization

/// Which rack a command is for.
struct RackOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The manager's address, as 'rack up' prints it (default: LEGO_RACK, else the last rack of this user).",
            valueName: "host:port"))
    var rack: String?

    /// A client of the rack's manager.
    func client() throws -> ManagementClient { try ManagementClient(address: RackFinder.address(option: rack)) }
}

/// Racks that were started on this machine, so that the commands of the users who started them find them: one file per
/// user and one per address below /run/lego, which a reboot empties.
enum RackFinder {
    struct Entry: Codable, Equatable {
        var address: String
        var stateDirectory: String
    }

    static let defaultDirectory = "/run/lego"

    /// What `--rack` before the command named. Written once, before the command runs.
    private static let leadingOption = Mutex<String?>(nil)

    /// Takes `--rack ADDRESS` off the front, where it is written before the command; it counts as the command's own.
    static func takeLeadingOption(_ arguments: [String]) -> [String] {
        var rest = arguments
        if let first = rest.first, first.hasPrefix("--rack=") {
            leadingOption.withLock { $0 = String(first.dropFirst(7)) }
            rest.removeFirst()
        } else if rest.first == "--rack", rest.count > 1 {
            leadingOption.withLock { $0 = rest[1] }
            rest.removeFirst(2)
        }
        return rest
    }

    /// `--rack`, else `LEGO_RACK`, else the user's last rack.
    static func address(option: String?) throws(CommandFailure) -> String {
        if let option = option ?? leadingOption.withLock({ $0 }) { return option }
        if let variable = environment("LEGO_RACK"), !variable.isEmpty { return variable }
        if let entry = try entry("\(getuid())") { return entry.address }
        throw CommandFailure(
            "no rack is known to this user; start one with 'sudo legoctl rack up', or name one with --rack HOST:PORT")
    }

    /// The state directory of a rack of this machine: named, or that of the rack that the commands are for, or the
    /// default.
    static func stateDirectory(option: String?, rack: String?) throws(CommandFailure) -> String? {
        if let option { return Files.absolute(option) }
        if let address = rack ?? leadingOption.withLock({ $0 }) ?? environment("LEGO_RACK"), !address.isEmpty {
            return try entry(fileName(address))?.stateDirectory
        }
        return try entry("\(getuid())")?.stateDirectory
    }

    static func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

    private static func fileName(_ address: String) -> String {
        "at-" + address.map { $0.isLetter || $0.isNumber || $0 == "." ? $0 : "_" }
    }

    static func entry(_ name: String, in directory: String = defaultDirectory) throws(CommandFailure) -> Entry? {
        guard let bytes = try Files.read("\(directory)/\(name).json") else { return nil }
        return try? JSONDecoder().decode(Entry.self, from: Data(bytes))
    }

    /// Makes this the last rack of the user, and under sudo of the invoking user, too.
    static func remember(_ entry: Entry, in directory: String = defaultDirectory) throws(CommandFailure) {
        try Files.makeDirectory(directory)
        guard let data = try? JSONEncoder().encode(entry) else { throw CommandFailure("the rack cannot be recorded") }
        var names = ["\(getuid())", fileName(entry.address)]
        if getuid() == 0, let invoker = environment("SUDO_UID"), UInt32(invoker) != nil { names.append(invoker) }
        for name in names { try Files.replace("\(directory)/\(name).json", with: Array(data), mode: 0o644) }
    }

    /// Removes every mention of the rack in that state directory.
    static func forget(stateDirectory: String, in directory: String = defaultDirectory) {
        guard let listing = opendir(directory) else { return }
        defer { closedir(listing) }
        while let item = readdir(listing) {
            let name = withUnsafeBytes(of: item.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            guard name.hasSuffix(".json"), let entry = (try? entry(String(name.dropLast(5)), in: directory)) ?? nil
            else { continue }
            if entry.stateDirectory == stateDirectory { unlink("\(directory)/\(name)") }
        }
    }
}
