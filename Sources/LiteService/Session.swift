import CLite
import Kernel

/// A call that a program has received and not replied to.
struct IncomingCall: BitwiseCopyable {
    var node: UInt64 = 0
    var token: UInt64 = 0
    var capacity: UInt64 = 0
}

/// A lock that a program has open.
final class LockReference: Sendable {
    let home: UInt64
    let id: UInt64
    init(home: UInt64, id: UInt64) {
        self.home = home
        self.id = id
    }
}

/// A program that has joined.
///
/// Lock order: the control state's lock, then a session's; a session's is held over nothing but memory accesses of
/// some hundred nanoseconds.
final class Session: @unchecked Sendable {
    static let incoming_max = 1 << 14

    let id: UInt64
    let user: UInt32
    let process: Int32
    private(set) var priority: UInt32
    let socket: Descriptor
    /// Set once, before the program knows of the session.
    var channels: [ServiceChannel] = []

    let lock = AdaptiveLock()
    // Protected by `lock`; the language need not look for a second user at each access.
    @exclusivity(unchecked) var handles = HandleTable()
    var incoming = SlotTable<IncomingCall>(capacity_max: Session.incoming_max, blank: IncomingCall())
    /// By their number less one.
    @exclusivity(unchecked) var buffers: [SessionBuffer?] = []
    var isEnded = false

    init(id: UInt64, user: UInt32, process: Int32, priority: UInt32, socket: consuming Descriptor) {
        self.id = id
        self.user = user
        self.process = process
        self.priority = priority
        self.socket = socket
    }

    /// At the hand-shake, by the leader.
    func setPriority(_ priority: UInt32) { self.priority = priority }

    /// Gives a handle to an object, which the entry keeps alive; nil when the table is full or the session over.
    func addHandle(_ entry: HandleEntry, retaining object: AnyObject) -> UInt64? {
        var entry = entry
        let reference = Unmanaged.passRetained(object)
        entry.object = reference.toOpaque()
        lock.lock()
        let handle = isEnded ? nil : handles.insert(entry)
        lock.unlock()
        if handle == nil { reference.release() }
        return handle
    }

    /// Takes a handle out; the caller owns the reference to its object. nil for one that is not in use.
    func takeHandle(_ handle: UInt64, _ kind: HandleEntry.Kind) -> HandleEntry? {
        lock.lock()
        defer { lock.unlock() }
        guard let entry = handles.pointer(handle), entry.pointee.kind == kind else { return nil }
        let copy = entry.pointee
        handles.remove(handle)
        return copy
    }

    /// The lock behind a handle.
    func findLock(_ handle: UInt64) -> LockReference? {
        lock.lock()
        defer { lock.unlock() }
        return handles.pointer(handle)?.pointee.lock
    }

    /// Remembers a call that the program receives; nil when the session is over or has too many.
    func addIncoming(_ call: IncomingCall) -> UInt64? {
        lock.lock()
        defer { lock.unlock() }
        return isEnded ? nil : incoming.insert(call)
    }

    /// Takes a received call out.
    func takeIncoming(_ handle: UInt64) -> IncomingCall? {
        lock.lock()
        defer { lock.unlock() }
        guard let call = incoming.pointer(handle)?.pointee else { return nil }
        incoming.remove(handle)
        return call
    }
}
