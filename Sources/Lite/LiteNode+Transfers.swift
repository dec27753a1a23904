import CLinux
import Fabric
import Glibc
import Kernel
import Wire

/// How transfers are cut up. A *burst* is posted under one hold of the queue pair's lock, the last of its requests signalled; as
/// many bursts as fill a *window* are under way before the thread waits. The send queue has room for every thread's window.
enum TransferLimit {
    /// One request, and the bytes of a burst: what a device that copies at posting holds the lock for, some 20 µs.
    static let burstBytes = 256 << 10
    static let burstRequests = 8
    static let windowRequests = 16
    /// How long the memory of a transfer that timed out is waited for after its connection has been ended.
    static let flush: Duration = .seconds(10)
}

extension LiteNode {
    /// Copies from the peer's pool into this one's, one-sided: the peer's CPU has no part in it. All pieces, or an error after
    /// which any part of the local memory may have been written. A piece outside either pool, or a pool that the peer does not
    /// open for reading, is answered `accessRefused` before anything is sent. At the deadline the connection to the peer is
    /// ended, as nothing else keeps late bytes from landing.
    @specialized(where Device == HybridDevice)
    public func read(
        _ peer: LitePeer, _ pieces: UnsafeBufferPointer<Transfer>, on pairs: TransferPairs = .common,
        until deadline: Deadline
    ) -> Status {
        transfer(.read, .read, peer, pieces, ofPool, on: pairs, until: deadline)
    }

    /// Copies from this node's pool into the peer's, one-sided. On an error any part of the remote memory may have been written.
    /// Refusals and deadline as for `read`.
    @specialized(where Device == HybridDevice)
    public func write(
        _ peer: LitePeer, _ pieces: UnsafeBufferPointer<Transfer>, on pairs: TransferPairs = .common,
        until deadline: Deadline
    ) -> Status {
        transfer(.write, .write, peer, pieces, ofPool, on: pairs, until: deadline)
    }

    /// Adds to an aligned 8-byte word of the peer's pool; answers its former value through `former`. Refusals and deadline as for
    /// `read`.
    @specialized(where Device == HybridDevice)
    public func fetchAdd(
        _ peer: LitePeer, remoteOffset: UInt64, add: UInt64, former: inout UInt64, on pairs: TransferPairs = .common,
        until deadline: Deadline
    ) -> Status {
        atomic(.fetchAdd, peer, remoteOffset, operand: add, swap: 0, &former, on: pairs, until: deadline)
    }

    /// Stores `desired` in an aligned 8-byte word of the peer's pool if it holds `expected`; answers its former value. Refusals
    /// and deadline as for `read`.
    @specialized(where Device == HybridDevice)
    public func compareSwap(
        _ peer: LitePeer, remoteOffset: UInt64, expected: UInt64, desired: UInt64, former: inout UInt64,
        on pairs: TransferPairs = .common, until deadline: Deadline
    ) -> Status {
        atomic(.compareSwap, peer, remoteOffset, operand: expected, swap: desired, &former, on: pairs, until: deadline)
    }

    // MARK: Pieces

    @inline(__always)
    func transfer(
        _ opcode: WorkOpcode, _ right: RemoteAccess, _ peer: LitePeer, _ pieces: UnsafeBufferPointer<Transfer>,
        _ memory: LocalMemory, on pairs: TransferPairs, until deadline: Deadline
    ) -> Status {
        withLink(of: peer, .peerLost) { link in
            if link.isLost { return .peerLost }
            guard link.remotePoolAccess.contains(right) else { return .accessRefused }
            for piece in pieces where !isInside(piece, memory, link) { return .accessRefused }
            let cursor = TransferCursor(pieces)
            if cursor.isAtEnd { return .ok }
            let slot: Int
            switch takeTransfer(link, until: deadline) {
            case .success(let taken): slot = taken
            case .failure(let status): return status.status
            }
            return link.withPort(link.transferPair(slot, on: pairs), nil) { port in
                move(opcode, link, port, slot, memory, cursor, until: deadline)
            } ?? withdraw(link, slot)
        }
    }

    /// The transfer whose slot has been taken.
    @inline(__always)
    private func move(
        _ opcode: WorkOpcode, _ link: Link<Device>, _ port: Port<Device>, _ slot: Int, _ memory: LocalMemory,
        _ start: TransferCursor, until deadline: Deadline
    ) -> Status {
        var cursor = start
        repeat {
            if !postWindow(opcode, link, port, slot, memory, &cursor, until: deadline) { return .timedOut }
            if !finish(link, port, slot, until: deadline) { return .timedOut }
        } while !cursor.isAtEnd && link.transferWaiters[slot].status == 0
        return conclude(link, slot)
    }

    /// Gives a slot back for which there is no port any more.
    @inline(never)
    private func withdraw(_ link: Link<Device>, _ slot: Int) -> Status {
        link.giveTransfer(slot)
        return .peerLost
    }

    /// The pool, as the local end of transfers.
    @inline(__always)
    private var ofPool: LocalMemory {
        LocalMemory(base: poolRegion.base, count: configuration.poolBytes, key: poolRegion.localKey)
    }

    /// Whether both ends of a piece lie inside their memory.
    @inline(__always)
    private func isInside(_ piece: Transfer, _ memory: LocalMemory, _ link: Link<Device>) -> Bool {
        let local = UInt(bitPattern: piece.local) &- UInt(bitPattern: memory.base)
        let (end, overflow) = piece.remoteOffset.addingReportingOverflow(UInt64(truncatingIfNeeded: piece.count))
        return piece.count >= 0 && local <= UInt(memory.count)
            && UInt(bitPattern: piece.count) <= UInt(memory.count) &- local
            && !overflow && end <= link.remotePoolBytes
    }

    /// Posts up to a window of requests. False when the send queue stays full until the deadline: the link then is failed, and
    /// the transfer's slot is not used again.
    @inline(__always)
    private func postWindow(
        _ opcode: WorkOpcode, _ link: Link<Device>, _ port: Port<Device>, _ slot: Int, _ memory: LocalMemory,
        _ cursor: inout TransferCursor, until deadline: Deadline
    ) -> Bool {
        let waiter = link.transferWaiters + slot
        var window = 0
        var isOpen = false
        while isOpen || (window < TransferLimit.windowRequests && !cursor.isAtEnd) {
            port.gate.lock.lock()
            if waiter.isOver { waiter.begin() }
            if !isOpen { waiter.pointee.count = waiter.pointee.count + 1 }
            isOpen = true
            var requests = 0
            var bytes = 0
            while isOpen {
                let piece = cursor.peek(max: TransferLimit.burstBytes)
                let isLast =
                    requests + 1 == TransferLimit.burstRequests || bytes + piece.count >= TransferLimit.burstBytes
                    || cursor.isLast(piece.count)
                if !post(opcode, link, port, slot, memory.key, piece, isLast) { break }
                requests += 1
                bytes += piece.count
                cursor.advance(piece.count)
                isOpen = !isLast
            }
            port.drainLocked(link.transferWaiters)
            // A device that completes at posting leaves the window empty.
            window = waiter.isOver ? 0 : window + requests
            port.gate.lock.unlock()
            if isOpen {
                if deadline.hasPassed {
                    fail(link)
                    return false
                }
                sched_yield()
            }
        }
        return true
    }

    @inline(__always)
    private func post(
        _ opcode: WorkOpcode, _ link: Link<Device>, _ port: Port<Device>, _ slot: Int, _ key: UInt32,
        _ piece: Transfer, _ isLast: Bool
    ) -> Bool {
        port.elements[0] = ScatterElement(address: piece.local, count: piece.count, localKey: key)
        var work = WorkRequest(opcode, local: UnsafeBufferPointer(start: port.elements, count: 1))
        work.remoteAddress = link.remotePoolAddress &+ piece.remoteOffset
        work.remoteKey = link.remotePoolKey
        return port.postLocked(&work, transfer: slot, isLast: isLast, link.transferWaiters)
    }

    // MARK: Atomics

    @inline(__always)
    private func atomic(
        _ opcode: WorkOpcode, _ peer: LitePeer, _ remoteOffset: UInt64, operand: UInt64, swap: UInt64,
        _ former: inout UInt64, on pairs: TransferPairs, until deadline: Deadline
    ) -> Status {
        guard let link = link(of: peer) else { return .peerLost }
        if link.isLost { return .peerLost }
        guard link.remotePoolAccess.contains(.atomic), remoteOffset % 8 == 0, link.remotePoolBytes >= 8,
            remoteOffset <= link.remotePoolBytes - 8
        else { return .accessRefused }
        let slot: Int
        switch takeTransfer(link, until: deadline) {
        case .success(let taken): slot = taken
        case .failure(let status): return status.status
        }
        guard let port = link.ports[link.transferPair(slot, on: pairs)] else { return withdraw(link, slot) }
        let result = link.outbox + (link.layout.bytes + slot * 8)
        port.gate.lock.lock()
        link.transferWaiters[slot].count = 1
        while true {
            port.elements[0] = ScatterElement(address: result, count: 8, localKey: link.outboxKey)
            var work = WorkRequest(opcode, local: UnsafeBufferPointer(start: port.elements, count: 1))
            work.remoteAddress = link.remotePoolAddress &+ remoteOffset
            work.remoteKey = link.remotePoolKey
            work.operand = operand
            work.swap = swap
            if port.postLocked(&work, transfer: slot, isLast: true, link.transferWaiters) { break }
            port.gate.lock.unlock()
            if deadline.hasPassed {
                link.giveTransfer(slot)
                return .timedOut
            }
            sched_yield()
            port.gate.lock.lock()
        }
        port.drainLocked(link.transferWaiters)
        port.gate.lock.unlock()
        if !finish(link, port, slot, until: deadline) { return .timedOut }
        if link.transferWaiters[slot].status == 0 { former = result.load(as: UInt64.self) }
        return conclude(link, slot)
    }

    // MARK: Other memory

    /// Posts so many READs as `describe` makes them, whatever registered memory they go to, and waits for all of them.
    func transferDirectly(
        _ link: Link<Device>, requests: Int, until deadline: Deadline,
        _ describe: (UnsafeMutablePointer<ScatterElement>, inout WorkRequest) -> Void
    ) -> Status {
        if link.isLost { return .peerLost }
        let slot: Int
        switch takeTransfer(link, until: deadline) {
        case .success(let taken): slot = taken
        case .failure(let status): return status.status
        }
        guard let port = link.ports[link.transferPair(slot, on: .common)] else { return withdraw(link, slot) }
        port.gate.lock.lock()
        link.transferWaiters[slot].count = UInt32(requests)
        var posted = 0
        while posted < requests {
            var work = WorkRequest(.read, local: UnsafeBufferPointer(start: port.elements, count: 1))
            describe(port.elements, &work)
            if port.postLocked(&work, transfer: slot, isLast: true, link.transferWaiters) {
                posted += 1
                continue
            }
            port.gate.lock.unlock()
            if deadline.hasPassed {
                // What was posted goes on: the end of the connection ends it, and the slot is not used again.
                fail(link)
                return .timedOut
            }
            sched_yield()
            port.gate.lock.lock()
        }
        port.drainLocked(link.transferWaiters)
        port.gate.lock.unlock()
        if !finish(link, port, slot, until: deadline) { return .timedOut }
        return conclude(link, slot)
    }

    // MARK: Slots

    /// A status as an error, for `Result`.
    private struct Refusal: Error { let status: Status }

    /// A slot for a transfer; its waiter is pending.
    @inline(__always)
    private func takeTransfer(_ link: Link<Device>, until deadline: Deadline) -> Result<Int, Refusal> {
        var taken = link.transfers.take()
        while taken == nil {
            if link.isLost { return .failure(Refusal(status: .peerLost)) }
            if !link.transfers.waitForChange(until: deadline, orWhen: { link.isLost }) {
                return .failure(Refusal(status: .timedOut))
            }
            taken = link.transfers.take()
        }
        let slot = taken!
        let waiter = link.transferWaiters + slot
        waiter.pointee.status = 0
        waiter.pointee.count = 0
        waiter.begin()
        if link.isLost {
            link.giveTransfer(slot)
            return .failure(Refusal(status: .peerLost))
        }
        return .success(slot)
    }

    /// Waits for all that a transfer has posted. False at the deadline: the connection has been ended then, so that nothing lands
    /// later, and the slot given back, or given up if the device still holds it.
    @inline(__always)
    private func finish(_ link: Link<Device>, _ port: Port<Device>, _ slot: Int, until deadline: Deadline) -> Bool {
        let waiter = link.transferWaiters + slot
        if waiter.isOver { return true }
        if wait(link, port, waiter, until: deadline, spin_ns: spin_ns) { return true }
        fail(link)
        if wait(link, port, waiter, until: .after(TransferLimit.flush), spin_ns: 0) { link.giveTransfer(slot) }
        return false
    }

    @inline(__always)
    private func wait(
        _ link: Link<Device>, _ port: Port<Device>, _ waiter: UnsafeMutablePointer<Waiter>, until deadline: Deadline,
        spin_ns: UInt64
    ) -> Bool {
        port.gate.wait(for: waiter, until: deadline, spin_ns: spin_ns, abandoning: false) {
            port.complete($0, link.transferWaiters)
        }
    }

    /// Gives a finished transfer's slot back, and says how it ended.
    @inline(__always)
    private func conclude(_ link: Link<Device>, _ slot: Int) -> Status {
        let status = WorkStatus(rawValue: UInt8(truncatingIfNeeded: link.transferWaiters[slot].status))
        link.giveTransfer(slot)
        if status == .success { return .ok }
        return failure(status, link)
    }

    @inline(never)
    private func failure(_ status: WorkStatus?, _ link: Link<Device>) -> Status {
        // A queue pair that reported an error is in error for good.
        fail(link)
        switch status {
        case .remoteAccess, .localProtection, .localLength: return .accessRefused
        case .flushed, .retryExceeded, .receiverNotReady: return .peerLost
        default: return .system(EIO)
        }
    }
}

/// A place in a list of pieces. Empty pieces are passed over.
struct TransferCursor {
    private let pieces: UnsafeBufferPointer<Transfer>
    private var index = 0
    private var offset = 0

    @inline(__always)
    init(_ pieces: UnsafeBufferPointer<Transfer>) {
        self.pieces = pieces
        skipEmpty()
    }

    @inline(__always)
    var isAtEnd: Bool { index == pieces.count }

    /// What comes next, at most `max` bytes of it. Not at the end.
    @inline(__always)
    func peek(max: Int) -> Transfer {
        let piece = pieces[index]
        return Transfer(
            local: piece.local + offset, remoteOffset: piece.remoteOffset &+ UInt64(offset),
            count: min(max, piece.count - offset))
    }

    /// Whether `count` more bytes of this piece reach the end of the list.
    @inline(__always)
    func isLast(_ count: Int) -> Bool {
        var after = self
        after.advance(count)
        return after.isAtEnd
    }

    /// Moves on inside the current piece, or to the next one.
    @inline(__always)
    mutating func advance(_ count: Int) {
        offset += count
        if offset == pieces[index].count {
            index += 1
            offset = 0
            skipEmpty()
        }
    }

    @inline(__always)
    private mutating func skipEmpty() {
        while index < pieces.count, pieces[index].count == 0 { index += 1 }
    }
}
