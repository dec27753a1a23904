import CLinux
import Glibc
import Kernel
import Synchronization

/// What became of a request that a driver tried.
enum Step {
    case finished(WorkStatus)
    /// Something else must happen first; whoever does it wakes this device.
    case waiting
    /// The peer's device must do it: the region is no memory file.
    case served
    /// The peer has posted no receive: as `waiting`, but only until the receiver-not-ready deadline.
    case waitingForReceive
}

/// The shared-memory transport of one queue pair. The initiator's thread copies between its memory and the peer's
/// mapped regions; messages and immediates go through slots in each direction, which the receiver's poll empties.
///
/// Mutable fields are the send driver's (`execute`) or the receive driver's (`receive`), as marked.
final class SharedChannel: @unchecked Sendable {
    /// What the peer gives at connection.
    struct Remote: ~Copyable {
        var device: PeerDevice
        /// The notification descriptor of the completion queue of its receives, and the page with its armed word.
        var queueEvent: Descriptor
        var queuePage: MemoryFile
    }

    let sendDriver = Driver()
    let receiveDriver = Driver()
    private let file: MemoryFile
    /// The Unix socket to the peer's device: requests for its thread, and the notice of the peer's end. -1 before
    /// `connect`; closed by `deinit`.
    private(set) var control: Int32 = -1
    let mine: PairPage
    let theirs: PairPage
    let myRing: UnsafeMutableRawPointer
    let theirRing: UnsafeMutableRawPointer
    let receives: Int
    var theirReceives = 1
    let table: RegionTableView
    /// Set once, before the pair is connected.
    private var peer: Held<PeerDevice>?
    /// The process that opened the other end's socket; 0 when it is another user's, or has no number here. Set as `peer`.
    private(set) var peerProcess: Int32 = 0
    var queueEvent: Int32 = -1
    private var queuePage: MemoryFile?
    var queueArmed: UnsafeMutablePointer<UInt32>

    // The send driver's.
    var activity: UInt32 = 0
    var slotTail: UInt64 = 0
    var ringTail: UInt64 = 0
    var messagesSent: UInt64 = 0
    /// What was seen last of what the peer has taken and posted.
    var slotHeadSeen: UInt64 = 0
    var ringHeadSeen: UInt64 = 0
    var postedSeen: UInt64 = 0
    /// The lengths of those receives, as they were then, in a ring as the peer has it: the peer's own lie in lines that it
    /// writes with each receive.
    private(set) var lengthsSeen: UnsafeMutablePointer<UInt32>
    var sendOffset = 0
    var sendWakeups: Wakeups = []
    /// The key whose region has been asked for, 0 when none.
    var wantedKey: UInt32 = 0
    /// The key that was asked for last.
    var askedKey: UInt32 = 0
    var isDoneByOwner = false
    let owner = OwnerDialogue()
    /// A key whose region could not be mapped here, 0 when none.
    let unmappableKey = Atomic<UInt32>(0)

    // The receive driver's.
    var slotHead: UInt64 = 0
    var ringHead: UInt64 = 0
    var receiveOffset = 0
    /// The peer broke the protocol, or a receive failed.
    var isReceiveBroken = false

    /// `side` is 0 for the initiator of the connection, 1 for its acceptor.
    init(file: MemoryFile, side: Int, receives: Int, table: RegionTableView) {
        self.file = file
        self.table = table
        self.receives = receives
        mine = PairPage(base: file.base + side * PairPage.sideBytes)
        theirs = PairPage(base: file.base + (1 - side) * PairPage.sideBytes)
        myRing = mine.base + PairPage.ringOffset
        theirRing = theirs.base + PairPage.ringOffset
        lengthsSeen = .allocate(capacity: 1)
        lengthsSeen.initialize(to: 0)
        queueArmed = lengthsSeen
    }

    deinit {
        lengthsSeen.deallocate()
        if queueEvent >= 0 { Glibc.close(queueEvent) }
        if control >= 0 { Glibc.close(control) }
    }

    /// Takes what the peer gave, and how many receives it may post. Before the pair is connected.
    func connect(_ remote: consuming Remote, control: consuming Descriptor, theirReceives: Int) {
        var peer = lego_peer_credentials()
        // A peer of another user could not be trusted with more than the memory that it shares.
        if lego_socket_peer_credentials(control.raw, &peer) == 0, peer.uid == geteuid() { peerProcess = peer.pid }
        self.control = control.release()
        self.theirReceives = theirReceives
        lengthsSeen.deallocate()
        lengthsSeen = .allocate(capacity: theirReceives)
        lengthsSeen.initialize(repeating: 0, count: theirReceives)
        self.peer = Held(remote.device)
        queueArmed = remote.queuePage.base.assumingMemoryBound(to: UInt32.self)
        queuePage = remote.queuePage
        queueEvent = remote.queueEvent.release()
    }

    /// A counted reference.
    var peerDevice: PeerDevice? {
        switch peer {
        case .some(let peer): peer.object
        case .none: nil
        }
    }

    /// Runs `body` on the peer's device, if there has been a connection.
    @inline(__always)
    func withDevice<Value>(_ otherwise: Value, _ body: (PeerDevice) -> Value) -> Value {
        switch peer {
        case .some(let peer): peer.lend(body)
        case .none: otherwise
        }
    }

    /// Tells the peer that this side has disconnected: no access of its that begins from now on is carried out.
    func close() {
        lego_atomic_store_u32(mine.word32(PairPage.Word.closed), 1)
        lego_atomic_fence()
        // A full socket means that the peer's device does not read: then the end of the stream must do.
        if !ControlMessage(kind: .bye, key: 0).send(on: control) { shutdown(control, Int32(SHUT_WR)) }
    }

    var isClosedByPeer: Bool { lego_atomic_load_u32(theirs.word32(PairPage.Word.closed)) != 0 }

    // MARK: Deregistration

    /// Waits for the accesses to registered memory that are under way, of either end; `isPeerAlive` says whether the
    /// peer's still matter. On any thread but those of the drivers.
    func waitForAccesses(isPeerAlive: () -> Bool) {
        Self.waitForChange(mine.word32(PairPage.Word.activity)) { true }
        receiveDriver.awaitRun()
        Self.waitForChange(theirs.word32(PairPage.Word.activity), while: isPeerAlive)
        _ = Self.waitForZero(theirs.word32(PairPage.Word.accesses), while: isPeerAlive)
    }

    /// Waits, while `condition` holds, for the peer's access that is under way; answers whether it has ended. One that
    /// begins later finds this side closed.
    func awaitPeer(while condition: () -> Bool) -> Bool {
        let word = theirs.word32(PairPage.Word.activity)
        lego_atomic_fence()
        let start = lego_atomic_load_u32(word)
        Self.waitForChange(word, while: condition)
        if !Self.waitForZero(theirs.word32(PairPage.Word.accesses), while: condition) { return false }
        return start & 1 == 0 || lego_atomic_load_u32(word) != start
    }

    static func waitForChange(_ word: UnsafeMutablePointer<UInt32>, while condition: () -> Bool) {
        let start = lego_atomic_load_u32(word)
        if start & 1 == 0 { return }
        var spins = 0
        while lego_atomic_load_u32(word) == start, condition() { pause(word, start, &spins) }
    }

    /// Waits, while `condition` holds, until no direct access is counted; answers whether none is.
    private static func waitForZero(_ word: UnsafeMutablePointer<UInt32>, while condition: () -> Bool) -> Bool {
        var spins = 0
        while true {
            let now = lego_atomic_load_u32(word)
            if now == 0 { return true }
            if !condition() { return false }
            pause(word, now, &spins)
        }
    }

    /// One look's distance, growing: a long copy, or an end that has been stopped, wakes nobody.
    private static func pause(_ word: UnsafeMutablePointer<UInt32>, _ value: UInt32, _ spins: inout Int) {
        spins += 1
        if spins < 1000 {
            lego_spin_pause()
        } else if spins < 2000 {
            sched_yield()
        } else {
            Futex.wait(word, while: value, until: .after(.milliseconds(1)))
        }
    }

    // MARK: Direct access

    /// Where the peer's memory lies for this process, with the access counted; nil when nothing may be, or can be,
    /// reached so. The count is raised before the table is looked at, a deregistration does it the other way round.
    @inline(__always)
    func beginAccess(_ key: UInt32, address: UInt64, count: Int, _ access: RemoteAccess) -> UnsafeMutableRawPointer? {
        guard count >= 0 else { return nil }
        _ = lego_atomic_add_u32(mine.word32(PairPage.Word.accesses), 1)
        if !isClosedByPeer, lego_atomic_load_u32(mine.word32(PairPage.Word.closed)) == 0,
            case .here(let place) = resolve(key, address: address, count: count, access)
        {
            return place
        }
        endAccess()
        return nil
    }

    /// Finds the peer's memory; on the conditions of `PeerDevice.resolve`.
    @inline(__always)
    func resolve(_ key: UInt32, address: UInt64, count: Int, _ access: RemoteAccess) -> Resolution {
        withDevice(.refused) { $0.resolve(key, address: address, count: count, access: access) }
    }

    @inline(__always)
    func endAccess() { _ = lego_atomic_add_u32(mine.word32(PairPage.Word.accesses), .max) }
}

/// memcpy, without a call where it is a word.
@inline(__always)
func copyShort(_ to: UnsafeMutableRawPointer, _ from: UnsafeRawPointer, _ count: Int) {
    if count == 8 {
        to.storeBytes(of: from.loadUnaligned(as: UInt64.self), as: UInt64.self)
    } else {
        memcpy(to, from, count)
    }
}

/// Calls `body` for the parts of a scatter list that hold bytes `from..<from + count` of the message.
@inline(__always)
func forEachPiece(
    _ elements: UnsafeMutablePointer<ScatterElement>, _ elementCount: Int, from start: Int, count: Int,
    _ body: (_ address: UnsafeMutableRawPointer, _ length: Int) -> Void
) {
    var skip = start
    var left = count
    for index in 0..<elementCount where left > 0 {
        let length = Int(elements[index].count)
        if skip >= length {
            skip &-= length
            continue
        }
        let piece = min(length &- skip, left)
        body(elements[index].address + skip, piece)
        left &-= piece
        skip = 0
    }
}
