import Foundation
import Glibc
import Kernel
import Testing

/// Hosts made of network namespaces. The first is joined to each of the others by a wire of its own, a veth pair; the
/// others do not reach each other. Removed with all their processes when nobody holds it any more.
final class HostNetwork {
    /// Names of the namespaces, the hub first.
    private let names: [String]

    init(hosts: Int) throws {
        names = (0..<hosts).map { "lego-test-\(getpid())-\($0)" }
        for name in names {
            try Self.ip(["netns", "add", name])
            try Self.ip(["-n", name, "link", "set", "lo", "up"])
        }
        let hub = names[0]
        for host in 1..<hosts {
            try Self.ip([
                "-n", hub, "link", "add", Self.port(of: host), "type", "veth", "peer", "name", "uplink", "netns",
                names[host],
            ])
            let (here, there) = (Self.address(of: 0), Self.address(of: host))
            try Self.ip(["-n", hub, "address", "add", here, "peer", there, "dev", Self.port(of: host)])
            try Self.ip(["-n", names[host], "address", "add", there, "peer", here, "dev", "uplink"])
            try Self.ip(["-n", hub, "link", "set", Self.port(of: host), "up"])
            try setWire(to: host, isUp: true)
        }
    }

    deinit {
        for name in names {
            let pids = try? Command("ip", ["netns", "pids", name]).run().text
            for pid in (pids ?? "").split(separator: "\n").compactMap({ pid_t($0) }) { kill(pid, SIGKILL) }
            _ = try? Command("ip", ["netns", "delete", name]).run()
        }
    }

    static func address(of host: Int) -> String { "10.77.0.\(host + 1)" }
    private static func port(of host: Int) -> String { "host\(host)" }

    private static func ip(_ arguments: [String]) throws {
        let result = try Command("ip", arguments).run()
        try #require(result.status == 0, "ip \(arguments.joined(separator: " ")): \(result.errors)")
    }

    /// Plugs the wire between the hub and another host in, or pulls it out.
    func setWire(to host: Int, isUp: Bool) throws {
        try Self.ip(["-n", names[host], "link", "set", "uplink", isUp ? "up" : "down"])
    }

    /// Bytes that the hub has sent to another host so far.
    func bytesSent(to host: Int) throws -> UInt64 {
        let path = "/sys/class/net/\(Self.port(of: host))/statistics/tx_bytes"
        let text = try command(on: 0, "cat", [path]).run().text
        return try #require(UInt64(text.trimmingCharacters(in: .whitespacesAndNewlines)))
    }

    /// A command on one of the hosts; the process that is started becomes the command.
    func command(
        on host: Int, _ path: String, _ arguments: [String], environment: [String: String] = [:]
    ) -> Command {
        Command("ip", ["netns", "exec", names[host], path] + arguments, environment: environment)
    }
}
