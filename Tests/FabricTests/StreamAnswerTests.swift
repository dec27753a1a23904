import Glibc
import Kernel
import Testing

@testable import Fabric

/// What goes over a socket that both ends poll all the time: acknowledgements travel with the messages that answer.
@Suite(.serialized) struct StreamAnswerTests {
    private typealias End = Side<SoftDevice>

    private static func channel(_ end: End) throws -> StreamChannel {
        switch end.pair.transport {
        case .shared: throw LabError("no TCP pair")
        case .stream(let channel): return channel.object
        }
    }

    private static func isLeft(_ end: End) throws -> Bool {
        try channel(end).isLeft.load(ordering: .sequentiallyConsistent)
    }

    /// Segments with data that this end has sent: `tcpi_data_segs_out` of TCP_INFO, which glibc's structure ends before.
    private static func segments(_ end: End) throws -> Int {
        var info = [UInt8](repeating: 0, count: 232)
        var count = socklen_t(info.count)
        if getsockopt(try channel(end).socket.raw, Int32(IPPROTO_TCP), TCP_INFO, &info, &count) < 0 || count < 160 {
            throw KernelError("getsockopt")
        }
        return info.withUnsafeBytes { Int($0.load(fromByteOffset: 156, as: UInt32.self)) }
    }

    private static func message(from sender: End) throws {
        if !sender.post(.send, [sender.element(0, 8)]) { throw LabError("no send") }
    }

    /// Polls until a message has come.
    private static func take(_ end: End) throws {
        let deadline = Deadline.after(labTimeout)
        while true {
            if let completion = end.poll() {
                if completion.status != .success { throw LabError("\(completion)") }
                if completion.kind == .send { continue }
                if !end.postReceive([end.element(8, 8)]) { throw LabError("no receive") }
                return
            }
            if deadline.hasPassed { throw LabError("no message") }
        }
    }

    /// Polls while no message is under way to this end.
    private static func poll(_ end: End) throws {
        for _ in 0..<20 {
            if let completion = end.poll(), completion.kind != .send || completion.status != .success {
                throw LabError("\(completion) before there was a message")
            }
        }
    }

    /// There and back, polled without pause. Answers whether both sockets were left to their pollers all the while.
    private static func round(_ left: End, _ right: End) throws -> Bool {
        try poll(right)
        let wasLeft = try isLeft(left) && isLeft(right)
        try message(from: left)
        try take(right)
        try poll(left)
        try message(from: right)
        try take(left)
        return try wasLeft && isLeft(left) && isLeft(right)
    }

    @Test func answersCarryAcknowledgements() throws {
        try softBench(.tcp).withLab { lab in
            for end in [lab.left, lab.right] {
                for _ in 0..<8 { #expect(end.postReceive([end.element(8, 8)])) }
            }
            let deadline = Deadline.after(labTimeout)
            var (rounds, segments) = (0, 0)
            while rounds < 500, !deadline.hasPassed {
                let before = try Self.segments(lab.left) + Self.segments(lab.right)
                if try Self.round(lab.left, lab.right) {
                    rounds += 1
                    segments += try Self.segments(lab.left) + Self.segments(lab.right) - before
                }
            }
            #expect(rounds == 500)
            // One each way; a socket may be taken up and left again within a round.
            #expect(segments < 2 * rounds + rounds / 5)
        }
    }

    /// Who has polled all the time takes a message and never looks again: its sender hears all the same that it has come.
    @Test func aPollerThatGoesAwayOwesNothing() throws {
        try softBench(.tcp).withLab { lab in
            for _ in 0..<8 { #expect(lab.right.postReceive([lab.right.element(8, 8)])) }
            for _ in 0..<200 {
                for _ in 0..<40 { #expect(lab.right.poll() == nil) }
                try Self.message(from: lab.left)
                try Self.take(lab.right)
                try lab.left.expectNext(.success, .send)
            }
        }
    }
}
