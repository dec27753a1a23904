import Fabric
import Glibc
import Kernel
import Synchronization
import Testing

/// A socket that somebody polls all the time is left to him by the device's thread, and taken up again when somebody arms
/// the queue. Both at once, by two threads, must leave no socket that nobody looks at.
@Suite(.serialized) struct LeftSocketTests {
    /// Two connections whose receiving ends share a queue, as a node's do: one that is left has the other taken up as well.
    private final class Pairs: @unchecked Sendable {
        let left: SoftDevice
        let right: SoftDevice
        let queue: SoftDevice.Queue
        var senders: [Side<SoftDevice>] = []
        var receivers: [Side<SoftDevice>] = []

        init() throws {
            let bench = softBench(.tcp)
            left = try bench.make()
            right = try bench.make()
            queue = try right.makeCompletionQueue(capacity: 1024)
            let address = try right.listen(on: FabricAddress(host: bench.host, port: 0))
            for _ in 0..<2 { try connect(address) }
            for number in 0..<2 {
                for _ in 0..<64 { try post(number) }
            }
        }

        func close() {
            left.close()
            right.close()
        }

        private func connect(_ address: FabricAddress) throws {
            let parameters = QueuePairParameters()
            let acceptor = try KernelThread(name: "acceptor") { [self] in
                guard let request = try? right.nextRequest(until: .after(labTimeout)),
                    let region = try? right.allocate(bytes: 4096, access: .all),
                    let pair = try? request.accept(
                        send: queue, receive: queue, parameters: parameters, privateData: [], prepare: { _ in })
                else { return }
                receivers.append(Side(device: right, queue: queue, region: region, pair: pair))
            }
            let own = try left.makeCompletionQueue(capacity: 1024)
            let (pair, _) = try left.connect(
                to: address, send: own, receive: own, parameters: parameters, privateData: [],
                until: .after(labTimeout), prepare: { _ in })
            acceptor.join()
            let region = try left.allocate(bytes: 4096, access: .all)
            senders.append(Side(device: left, queue: own, region: region, pair: pair))
            if receivers.count != senders.count { throw LabError("the acceptor did not finish") }
        }

        func post(_ number: Int) throws {
            let receiver = receivers[number]
            if !receiver.postReceive([receiver.element(0, 8)], id: UInt64(number)) { throw LabError("no receive") }
        }

        func send(_ number: Int) throws {
            let sender = senders[number]
            if !sender.post(.send, [sender.element(0, 8)]) { throw LabError("no send") }
        }

        /// The receiver's device says that it has taken the message in.
        func finish(_ number: Int) throws { try senders[number].expectNext(.success) }

        /// Takes what has arrived, and posts receives for as much again.
        func take() throws -> Int {
            guard let completion = receivers[0].poll() else { return 0 }
            if completion.status != .success { throw LabError("\(completion)") }
            try post(Int(completion.id))
            return 1
        }

        /// Waits for messages as a daemon does, without polling.
        func await(_ count: Int) throws {
            let deadline = Deadline.after(.seconds(20))
            var missing = count
            while missing > 0 {
                queue.arm()
                var taken = 0
                repeat {
                    taken = try take()
                    missing -= taken
                } while taken > 0
                if missing <= 0 { return }
                if deadline.hasPassed { throw LabError("\(missing) messages lie in sockets that nobody looks at") }
                var entry = pollfd(fd: queue.notificationDescriptor, events: Int16(POLLIN), revents: 0)
                _ = poll(&entry, 1, deadline.pollMilliseconds)
                queue.acknowledge()
            }
        }
    }

    @Test func armingTakesEverySocketUp() throws {
        let pairs = try Pairs()
        defer { pairs.close() }
        for _ in 0..<300 {
            let isOver = Atomic<Bool>(false)
            let taken = Atomic<Int>(0)
            let messages = 40
            // One polls without pause, so that the sockets are left to him; another one arms without pause.
            let poller = try KernelThread(name: "poller") {
                while !isOver.load(ordering: .acquiring) {
                    taken.add((try? pairs.take()) ?? messages * 2, ordering: .relaxed)
                }
            }
            let armer = try KernelThread(name: "armer") {
                while !isOver.load(ordering: .acquiring) { pairs.queue.arm() }
            }
            defer {
                isOver.store(true, ordering: .releasing)
                poller.join()
                armer.join()
            }
            for number in 0..<messages {
                try pairs.send(number % 2)
                try pairs.finish(number % 2)
            }
            isOver.store(true, ordering: .releasing)
            poller.join()
            armer.join()
            try pairs.await(messages - taken.load(ordering: .relaxed))
            for number in 0..<2 {
                try pairs.send(number)
                try pairs.await(1)
                try pairs.finish(number)
            }
        }
    }
}
