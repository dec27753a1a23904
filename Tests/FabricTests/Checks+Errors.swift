import Fabric
import Glibc
import Kernel
import Testing

extension Checks {
    /// A request that must fail, and how.
    struct Fault<Device: RDMADevice> {
        let name: String
        let status: WorkStatus
        /// Requests after a READ may reach the peer before its bytes come back and find no place.
        var isFoundLate = false
        let post: (Lab<Device>) -> Bool
    }

    /// Each fault on a connection of its own: the request fails with its status, what follows is flushed, the peer's
    /// memory is untouched and the connection ends on both sides.
    static func refusals<Device>(_ bench: Bench<Device>) throws {
        let size = 8192
        func one(_ lab: Lab<Device>) -> [ScatterElement] { [lab.left.element(0, 64)] }
        func key(_ lab: Lab<Device>, _ change: UInt32, _ offset: Int = 0) -> (key: UInt32, address: UInt64) {
            (lab.right.region.remoteKey ^ change, lab.right.region.remoteAddress &+ UInt64(bitPattern: Int64(offset)))
        }
        let faults: [Fault<Device>] = [
            Fault(name: "wrong key", status: .remoteAccess) { $0.left.post(.write, one($0), to: key($0, 0x100_0000)) },
            Fault(name: "key zero", status: .remoteAccess) {
                $0.left.post(.read, one($0), to: (0, $0.right.remote().address))
            },
            Fault(name: "one byte too far", status: .remoteAccess) {
                $0.left.post(.write, one($0), to: key($0, 0, size - 63))
            },
            Fault(name: "one byte too early", status: .remoteAccess) {
                $0.left.post(.read, one($0), to: key($0, 0, -1))
            },
            Fault(name: "an address that wraps", status: .remoteAccess) {
                $0.left.post(.write, one($0), to: ($0.right.region.remoteKey, .max - 7))
            },
            Fault(name: "a misaligned atomic", status: .remoteAccess) {
                $0.left.post(.fetchAdd, [$0.left.element(0, 8)], to: key($0, 0, 4)) { $0.operand = 1 }
            },
            Fault(name: "a wrong local key", status: .localProtection) {
                let bad = ScatterElement(
                    address: $0.left.region.base, count: 8, localKey: $0.left.region.localKey ^ 0x200_0000)
                return $0.left.post(.write, [bad], to: key($0, 0))
            },
            Fault(name: "local memory out of bounds", status: .localProtection, isFoundLate: true) {
                $0.left.post(.read, [$0.left.element(size - 10, 11)], to: key($0, 0))
            },
        ]
        for fault in faults {
            try bench.withLab(bytes: size) { lab in
                lab.right.fill(0, size, seed: 9)
                lab.left.fill(0, size, seed: 10)
                let before = Array(lab.right.bytes)
                #expect(lab.right.postReceive([lab.right.element(0, 64)]))
                #expect(fault.post(lab), "\(fault.name)")
                if !fault.isFoundLate { _ = lab.left.post(.write, one(lab), id: 2, to: lab.right.remote()) }
                let first = try lab.left.next()
                #expect(first.id == 1 && bench.accepts(first.status, for: fault.status), "\(fault.name): \(first)")
                if fault.isFoundLate { _ = lab.left.post(.write, one(lab), id: 2, to: lab.right.remote()) }
                let second = try lab.left.next()
                #expect(second.status == .flushed && second.id == 2, "\(fault.name): \(second)")
                let receive = try lab.right.next()
                #expect(receive.status == .flushed && receive.kind == .receive, "\(fault.name): \(receive)")
                let isUntouched = before.elementsEqual(lab.right.bytes)
                #expect(isUntouched, "\(fault.name)")
                #expect(!lab.left.pair.isConnected && !lab.right.pair.isConnected)
            }
        }
    }

    /// What the region's rights do not include is refused; what they include works.
    static func rights<Device>(_ bench: Bench<Device>) throws {
        let cases: [(RemoteAccess, WorkOpcode, WorkStatus)] = [
            (.read, .write, .remoteAccess), (.read, .fetchAdd, .remoteAccess), (.read, .read, .success),
            (.write, .read, .remoteAccess), (.write, .write, .success), ([.read, .write], .compareSwap, .remoteAccess),
            ([], .read, .remoteAccess), (.all, .compareSwap, .success),
        ]
        for (access, opcode, status) in cases {
            try bench.withLab(bytes: 4096, rightAccess: access) { lab in
                #expect(lab.left.post(opcode, [lab.left.element(0, 8)], to: lab.right.remote()))
                let completion = try lab.left.next()
                #expect(completion.status == status, "\(opcode) with \(access.rawValue): \(completion)")
            }
        }
    }

    /// A message that is larger than the receive fails on both sides.
    static func tooLongMessage<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 64 << 10) { lab in
            memset(lab.right.region.base, 7, 64 << 10)
            #expect(lab.right.postReceive([lab.right.element(100, 50)]))
            #expect(lab.left.post(.send, [lab.left.element(0, 51)]))
            try lab.left.expectNext(.remoteOperation)
            try lab.right.expectNext(.localLength)
            #expect(lab.right.bytes[150] == 7)
        }
    }

    /// A SEND waits for a receive, and fails when none is posted in time; the peer's receives are flushed.
    static func receiverNotReady<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 4096) { lab in
            #expect(lab.left.post(.send, [lab.left.element(0, 10)], id: 1))
            #expect(lab.left.poll() == nil)
            #expect(lab.right.postReceive([lab.right.element(0, 10)]))
            try lab.left.expectNext(.success)
            try lab.right.expectNext(.success)
            #expect(lab.left.post(.writeWithImmediate, [], id: 2))
            #expect(lab.left.post(.send, [lab.left.element(0, 10)], id: 3))
            let failed = try lab.left.next()
            #expect(failed.status == .receiverNotReady && failed.id == 2)
            let flushed = try lab.left.next()
            #expect(flushed.status == .flushed && flushed.id == 3)
        }
    }

    /// Either side's disconnection flushes what both have posted, and what they post later.
    static func flush<Device>(_ bench: Bench<Device>) throws {
        for isLeft in [true, false] {
            try bench.withLab(bytes: 4096) { lab in
                for side in [lab.left, lab.right] {
                    for id in 0..<10 { #expect(side.postReceive([side.element(0, 8)], id: UInt64(id))) }
                }
                (isLeft ? lab.left : lab.right).pair.disconnect()
                for side in [lab.left, lab.right] {
                    for id in 0..<10 {
                        let completion = try side.next()
                        #expect(
                            completion.status == .flushed && completion.id == UInt64(id) && completion.kind == .receive)
                    }
                    #expect(!side.pair.isConnected)
                    #expect(side.post(.write, [side.element(0, 8)], id: 77, to: lab.right.remote()))
                    let late = try side.next()
                    #expect(late.status == .flushed && late.id == 77 && late.kind == .send)
                    #expect(side.postReceive([], id: 78))
                    #expect(try side.expectNext(.flushed).id == 78)
                    side.pair.disconnect()
                }
            }
        }
    }

    /// Messages that had arrived are received before the rest is flushed when the peer goes.
    static func deliveryBeforeFlush<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 4096) { lab in
            for id in 0..<8 { #expect(lab.right.postReceive([lab.right.element(8 * id, 8)], id: UInt64(id))) }
            for id in 0..<5 {
                #expect(lab.left.post(.send, [lab.left.element(0, 8)], id: UInt64(id)))
                try lab.left.expectNext(.success)
            }
            lab.left.pair.disconnect()
            for id in 0..<8 {
                let completion = try lab.right.next()
                #expect(completion.id == UInt64(id))
                #expect(completion.status == (id < 5 ? .success : .flushed), "\(completion)")
            }
        }
    }

    /// A completion queue that is smaller than what is posted loses nothing.
    static func smallCompletionQueue<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 4096, capacity: 4) { lab in
            for id in 0..<64 { #expect(lab.right.postReceive([lab.right.element(0, 8)], id: UInt64(id))) }
            for id in 0..<64 { #expect(lab.left.post(.send, [lab.left.element(0, 8)], id: UInt64(id))) }
            for id in 0..<64 {
                let (sent, received) = (try lab.left.expectNext(.success), try lab.right.expectNext(.success))
                #expect(sent.id == UInt64(id) && received.id == UInt64(id))
            }
            for id in 0..<64 { #expect(lab.right.postReceive([], id: UInt64(id))) }
            lab.left.pair.disconnect()
            for id in 0..<64 {
                let flushed = try lab.right.expectNext(.flushed)
                #expect(flushed.id == UInt64(id))
            }
        }
    }
}
