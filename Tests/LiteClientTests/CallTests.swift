import Fabric
import Glibc
import Kernel
import LiteClient
import Testing

@testable import LiteService

/// A thread that serves a function by echoing, until it is told to stop.
private final class EchoServer {
    private let session: LiteSession
    private let thread: KernelThread
    static let stop: [UInt8] = [0xff, 0xfe]

    /// `inOneStep`: replies and receives by one operation.
    init(
        _ cluster: TestCluster, _ node: Int, _ function: UInt16, bytes_max: Int = 1 << 20, inOneStep: Bool = false
    ) throws {
        let session = try cluster.join(node)
        try session.register(function, bytes_max: bytes_max, depth: 16)
        self.session = session
        thread = try KernelThread(name: "echo") {
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes_max, alignment: 16)
            defer { buffer.deallocate() }
            var next: LiteRequest?
            while true {
                do throws(LiteFailure) {
                    var taken = next
                    if taken == nil { taken = try session.receive(function, into: buffer, until: patience) }
                    guard let request = taken else { return }
                    next = nil
                    if inOneStep, request.call != 0 {
                        let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<request.count])
                        next = try session.reply(
                            request.call, bytes, receiving: function, into: buffer, until: patience)
                        continue
                    }
                    let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<request.count])
                    if request.call != 0 { try session.reply(request.call, bytes) }
                    if bytes.elementsEqual(Self.stop) { return }
                } catch { return }
            }
        }
    }

    func join() { thread.join() }
}

extension LiteSession {
    fileprivate func call(_ node: UInt64, _ function: UInt16, _ bytes: [UInt8], room: Int, until deadline: Deadline)
        throws(LiteFailure) -> [UInt8]
    {
        var answer = [UInt8](repeating: 0, count: room)
        let result = bytes.withUnsafeBytes { request in
            answer.withUnsafeMutableBytes { reply -> Result<Int, LiteFailure> in
                do throws(LiteFailure) {
                    return .success(try call(node, function, request, reply: reply, until: deadline))
                } catch { return .failure(error) }
            }
        }
        return Array(answer[..<(try result.get())])
    }

    fileprivate func send(_ node: UInt64, _ function: UInt16, _ bytes: [UInt8]) throws(LiteFailure) {
        let result = bytes.withUnsafeBytes { buffer -> Result<Void, LiteFailure> in
            do throws(LiteFailure) { return .success(try send(node, function, buffer)) } catch {
                return .failure(error)
            }
        }
        try result.get()
    }
}

/// Room for a message.
private func withBuffer<R>(_ count: Int, _ body: (UnsafeMutableRawBufferPointer) throws -> R) rethrows -> R {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 16)
    defer { buffer.deallocate() }
    return try body(buffer)
}

extension LiteClientTests {
    @Suite(.serialized) struct Calls {
        @Test(arguments: [SoftDeviceConfiguration.Transport.automatic, .tcp])
        func aCallIsAnsweredAtEverySize(_ transport: SoftDeviceConfiguration.Transport) throws {
            try withCluster(nodes: 2, transport: transport) { cluster in
                let server = try EchoServer(cluster, 1, 7)
                let near = try cluster.join(1)
                let far = try cluster.join(0)
                for (seed, count) in [0, 1, 8, 4096, 4097, 100_000, 1 << 20].enumerated() {
                    let bytes = pattern(seed, count)
                    for caller in [near, far] {
                        let node = cluster.members[1].id
                        #expect(try caller.call(node, 7, bytes, room: 1 << 20, until: patience) == bytes)
                    }
                }
                try far.send(cluster.members[1].id, 7, EchoServer.stop)
                server.join()
            }
        }

        @Test func manyCallersAreServedOnce() throws {
            try withCluster(nodes: 2) { cluster in
                let server = try EchoServer(cluster, 0, 9, bytes_max: 256)
                let node = cluster.members[0].id
                let sessions = [try cluster.join(0), try cluster.join(1)]
                try onThreads(4) { thread in
                    for round in 0..<100 {
                        let bytes = pattern(thread * 1000 + round, 8 + round)
                        let answer = try sessions[thread % 2].call(node, 9, bytes, room: 256, until: patience)
                        #expect(answer == bytes)
                    }
                }
                try sessions[0].send(node, 9, EchoServer.stop)
                server.join()
            }
        }

        @Test func whatCannotBeCalledIsRefused() throws {
            try withCluster(nodes: 2) { cluster in
                let lite = try cluster.join(0)
                let other = try cluster.join(1)
                let node = cluster.members[1].id
                #expect(failure { () throws(LiteFailure) in try lite.send(node, 5, [1]) } == .noFunction)
                #expect(failure { () throws(LiteFailure) in try lite.send(0, 5, [1]) } == .noFunction)
                #expect(failure { () throws(LiteFailure) in try lite.send(4711, 5, [1]) } == .nodeLost)
                #expect(failure { () throws(LiteFailure) in try other.register(0, bytes_max: 8) } == .invalid)
                #expect(failure { () throws(LiteFailure) in try other.register(5, bytes_max: 2 << 20) } == .invalid)
                try other.register(5, bytes_max: 64, depth: 2)
                let third = try cluster.join(1)
                #expect(failure { () throws(LiteFailure) in try third.register(5, bytes_max: 64) } == .exists)
                #expect(failure { () throws(LiteFailure) in try third.unregister(5) } == .noFunction)
                try withBuffer(64) { buffer in
                    #expect(throws: LiteFailure.noFunction) { try third.receive(5, into: buffer, until: patience) }
                    let small = UnsafeMutableRawBufferPointer(rebasing: buffer[..<63])
                    #expect(throws: LiteFailure.invalid) { try other.receive(5, into: small, until: patience) }
                    let soon = Deadline.after(.milliseconds(20))
                    #expect(throws: LiteFailure.timedOut) { try other.receive(5, into: buffer, until: soon) }
                    #expect(throws: LiteFailure.badHandle) { try other.reply(99, UnsafeRawBufferPointer(buffer)) }
                    // The queue holds two; what came is received in its order, after the refusal.
                    for number in 0..<2 { try lite.send(node, 5, [UInt8(number)]) }
                    #expect(failure { () throws(LiteFailure) in try lite.send(node, 5, [9]) } == .busy)
                    for number in 0..<2 {
                        let request = try other.receive(5, into: buffer, until: patience)
                        #expect(request.call == 0 && request.count == 1 && buffer[0] == UInt8(number))
                        #expect(request.node == cluster.members[0].id)
                    }
                }
                let large = pattern(0, 65)
                #expect(failure { () throws(LiteFailure) in try lite.send(node, 5, large) } == .tooLarge)
                let huge = [UInt8](repeating: 0, count: 1 << 20 + 1)
                #expect(failure { () throws(LiteFailure) in try lite.send(node, 5, huge) } == .tooLarge)
            }
        }

        @Test func aReplyThatDoesNotFitOrHasNobodyToGoTo() throws {
            try withCluster(nodes: 2) { cluster in
                let server = try cluster.join(1)
                try server.register(3, bytes_max: 64)
                let node = cluster.members[1].id
                try withBuffer(64) { buffer in
                    // The caller has given up.
                    let caller = try cluster.join(0)
                    #expect(throws: LiteFailure.timedOut) {
                        _ = try caller.call(node, 3, [1], room: 8, until: .after(.milliseconds(30)))
                    }
                    let late = try server.receive(3, into: buffer, until: patience)
                    #expect(throws: LiteFailure.gone) { try server.reply(late.call, UnsafeRawBufferPointer(buffer)) }
                    // The caller has ended.
                    let dying = try cluster.join(0)
                    let thread = try KernelThread(name: "dying") {
                        _ = failure { () throws(LiteFailure) in
                            _ = try dying.call(node, 3, [1], room: 8, until: .after(.seconds(2)))
                        }
                    }
                    let orphan = try server.receive(3, into: buffer, until: patience)
                    dying.leave()
                    #expect(eventually { cluster.members[0].service.sessionCount == 1 })
                    #expect(throws: LiteFailure.gone) { try server.reply(orphan.call, UnsafeRawBufferPointer(buffer)) }
                    thread.join()
                    // More than the caller takes: both are told.
                    let narrow = try KernelThread(name: "narrow") {
                        #expect(throws: LiteFailure.tooLarge) {
                            _ = try caller.call(node, 3, [1], room: 8, until: patience)
                        }
                    }
                    let request = try server.receive(3, into: buffer, until: patience)
                    #expect(throws: LiteFailure.tooLarge) {
                        try server.reply(request.call, UnsafeRawBufferPointer(buffer))
                    }
                    #expect(throws: LiteFailure.badHandle) {
                        try server.reply(request.call, UnsafeRawBufferPointer(rebasing: buffer[..<1]))
                    }
                    narrow.join()
                }
            }
        }

        @Test func aServerThatEndsAnswersItsCallers() throws {
            try withCluster(nodes: 2) { cluster in
                let server = try cluster.join(1)
                try server.register(3, bytes_max: 64)
                let caller = try cluster.join(0)
                let node = cluster.members[1].id
                let threads = try (0..<2).map { _ in
                    try KernelThread(name: "caller") {
                        #expect(throws: LiteFailure.gone) {
                            _ = try caller.call(node, 3, [1], room: 8, until: patience)
                        }
                    }
                }
                #expect(eventually { cluster.members[1].service.requestCount == 2 })
                // One is received and not replied to, one is not received.
                try withBuffer(64) { buffer in _ = try server.receive(3, into: buffer, until: patience) }
                server.leave()
                for thread in threads { thread.join() }
            }
        }

        /// More callers than a node has slots for calls, whom two threads answer.
        @Test(arguments: [SoftDeviceConfiguration.Transport.automatic, .tcp])
        func manyCallersAreAnsweredInOneStep(_ transport: SoftDeviceConfiguration.Transport) throws {
            try withCluster(nodes: 2, transport: transport) { cluster in
                for node in 0..<2 {
                    let server = try EchoServer(cluster, node, 12, inOneStep: true)
                    let target = cluster.members[node].id
                    let callers = try (0..<40).map { _ in try cluster.join(0) }
                    try onThreads(40) { number in
                        let lite = callers[number]
                        for round in 0..<20 {
                            let count = [0, 1, 100, 5000, 70000][(number + round) % 5]
                            var answer = LiteFailure.busy
                            // The queue holds sixteen.
                            while answer == .busy {
                                do throws(LiteFailure) {
                                    let bytes = pattern(number + round, count)
                                    let reply = try lite.call(target, 12, bytes, room: 70000, until: patience)
                                    #expect(reply == bytes)
                                    break
                                } catch { answer = error }
                            }
                            #expect(answer == .busy, "\(answer)")
                        }
                        lite.leave()
                    }
                    let last = try cluster.join(0)
                    // One that nobody waits for any more: the server goes on.
                    try last.send(target, 12, EchoServer.stop)
                    server.join()
                }
                #expect(eventually { cluster.members.allSatisfy { $0.service.sessionCount <= 4 } })
            }
        }

        @Test func severalNodesAreCalledAtOnce() throws {
            try withCluster(nodes: 3) { cluster in
                let servers = try [0, 2].map { try EchoServer(cluster, $0, 11, bytes_max: 1000) }
                let lite = try cluster.join(0)
                let nodes = cluster.members.map(\.id)
                let replies = try lite.multicast(nodes, 11, pattern(1, 700), replyBytes_max: 1000, until: patience)
                #expect(try replies[0].get() == pattern(1, 700))
                #expect(throws: LiteFailure.noFunction) { try replies[1].get() }
                #expect(try replies[2].get() == pattern(1, 700))
                for node in [nodes[0], nodes[2]] { try lite.send(node, 11, EchoServer.stop) }
                for server in servers { server.join() }
            }
        }
    }
}
