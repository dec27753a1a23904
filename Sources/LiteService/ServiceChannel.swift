import CLinux
import CLite
import Kernel

/// What an operation waits for that is not over when it has been served.
struct Wait {
    enum Kind: UInt8 {
        case none = 0
        case receive = 1
        case call = 2
        case lock = 3
        case barrier = 4
        /// A message, or a reply, that another node has not confirmed.
        case delivery = 5
    }
    var kind = Kind.none
    /// The number of its submission, which a cancellation names.
    var sequence: UInt32 = 0
    /// Tells the waits of a slot apart, for a token.
    var generation: UInt64 = 0
    /// The function, lock or barrier.
    var object: UInt64 = 0
    /// The node that will end it.
    var home: UInt64 = 0
    /// Where bytes go, and how many may.
    var data = 0
    var capacity = 0
}

/// Names a wait to other nodes: a reply or a lock's turn that comes for one that is over finds nothing.
struct WaitToken {
    var rawValue: UInt64
    init(rawValue: UInt64) { self.rawValue = rawValue }
    init(channel: Int, slot: Int, generation: UInt64) {
        rawValue = UInt64(channel) | UInt64(slot) << 16 | generation << 24
    }
    var channel: Int { Int(rawValue & 0xffff) }
    var slot: Int { Int(rawValue >> 16 & 0xff) }
    var generation: UInt64 { rawValue >> 24 }
}

/// The daemon's end of a channel (`lite_channel.h`). Nothing that the program can write is believed: a submission is
/// copied once, and what is sure of an operation under way is kept here.
final class ServiceChannel: @unchecked Sendable {
    /// 40 bits of a token.
    private static let generation_max: UInt64 = 1 << 40 - 1

    let number: Int
    let session: Session
    let base: UnsafeMutableRawPointer
    /// The file's registration with the node, made when data first leaves the host.
    let registration: Registration
    private let file: MemoryFile
    private let ring: UnsafeMutablePointer<lite_submission>
    private let completions: UnsafeMutablePointer<lite_completion>
    private let words: UnsafeMutablePointer<UInt32>
    /// Operations that wait in a lane.
    private let deferred: UnsafeMutablePointer<UInt32>

    // The leader's.
    @exclusivity(unchecked) private var taken: UInt32 = 0
    /// The submission under way in each slot. Written before it is served, read by whoever completes it.
    private let sequences: UnsafeMutablePointer<UInt32>
    /// When a submission was last taken, in cycles.
    @exclusivity(unchecked) var lastActive: UInt64 = 0
    /// What the last one took, in cycles.
    @exclusivity(unchecked) var lastCycles: UInt64 = 0
    /// Whether the last one went to another node.
    @exclusivity(unchecked) var waitsForNode = false
    /// Whether the leader looks at it, or holds it back; else its program rings.
    @exclusivity(unchecked) var isHot = false
    /// Of high priority; of low priority, in a service that heeds it. Set before the program knows of the channel.
    let isHigh: Bool
    let givesWay: Bool

    let lock = AdaptiveLock()
    // Protected by `lock`.
    private let waits: UnsafeMutablePointer<Wait>
    private var generation: UInt64
    private var isClosed = false

    init(number: Int, session: Session, heedsPriority: Bool) throws(KernelError) {
        self.number = number
        self.session = session
        isHigh = session.priority == LITE_PRIORITY_HIGH.rawValue
        givesWay = heedsPriority && session.priority == LITE_PRIORITY_LOW.rawValue
        let descriptor = try Descriptor(
            checking: "memfd_create", lego_memfd_create_fixed("lite-channel", UInt64(LITE_CHANNEL_BYTES)))
        file = try MemoryFile(mapping: descriptor, bytes: Int(LITE_CHANNEL_BYTES))
        base = file.base
        registration = Registration(file)
        ring = (base + Int(LITE_RING_OFFSET)).assumingMemoryBound(to: lite_submission.self)
        completions = (base + Int(LITE_COMPLETION_OFFSET)).assumingMemoryBound(to: lite_completion.self)
        words = base.assumingMemoryBound(to: UInt32.self)
        deferred = .allocate(capacity: 1)
        deferred.initialize(to: 0)
        sequences = .allocate(capacity: Int(LITE_SLOTS))
        sequences.initialize(repeating: 0, count: Int(LITE_SLOTS))
        waits = .allocate(capacity: Int(LITE_SLOTS))
        waits.initialize(repeating: Wait(), count: Int(LITE_SLOTS))
        generation = .random(in: 1...Self.generation_max / 2)
        lego_atomic_store_u32(words, 1)
    }

    deinit {
        deferred.deallocate()
        waits.deallocate()
        sequences.deallocate()
    }

    /// The file, for passing to the program.
    var descriptor: Int32 { file.descriptor }

    // MARK: Submissions, by the leader

    /// Takes what has been submitted, at most `count_max`: a row of reads and writes, or one of anything else. Answers
    /// how many.
    @inline(__always)
    func take(into batch: UnsafeMutablePointer<lite_submission>, max count_max: Int) -> Int {
        var count = 0
        while count < count_max {
            let number = taken &+ UInt32(truncatingIfNeeded: count)
            let entry = ring + Int(number % UInt32(LITE_RING))
            let word = UnsafeMutableRawPointer(entry).assumingMemoryBound(to: UInt32.self)
            if lego_atomic_load_u32(word) != number &+ 1 { break }
            let copy = batch + count
            lite_submission_copy(copy, entry)
            copy.pointee.sequence = number &+ 1
            let opcode = UInt32(copy.pointee.opcode)
            let isTransfer = opcode == LITE_OP_READ.rawValue || opcode == LITE_OP_WRITE.rawValue
            if count > 0, !isTransfer { break }
            let slot = Int(copy.pointee.slot)
            if slot < Int(LITE_SLOTS), opcode != LITE_OP_CANCEL.rawValue {
                lego_atomic_store_u32(sequences + slot, number &+ 1)
            }
            count += 1
            if !isTransfer { break }
        }
        if count > 0 {
            taken &+= UInt32(truncatingIfNeeded: count)
            lego_atomic_store_u32(words + 16, taken)
        }
        return count
    }

    /// Counts an operation that waits in a lane; false for more than a channel can have.
    func beginDeferred() -> Bool { lego_atomic_add_u32(deferred, 1) < UInt32(LITE_RING) }
    func endDeferred() { _ = lego_atomic_add_u32(deferred, .max) }

    /// Whether a submission waits. Orders the look after every earlier store.
    func hasNext() -> Bool {
        lego_atomic_fence()
        let entry = ring + Int(taken % UInt32(LITE_RING))
        return lego_atomic_load_u32(UnsafeMutableRawPointer(entry).assumingMemoryBound(to: UInt32.self)) == taken &+ 1
    }

    /// Tells the program whether it must ring before the daemon looks.
    func setAsleep(_ asleep: Bool) { lego_atomic_store_u32(words, asleep ? 1 : 0) }

    /// Tells the program whether it had better sleep than spin.
    func setYields(_ yields: Bool) { lego_atomic_store_u32(words + 1, yields ? 1 : 0) }

    /// The bytes of a submission; nil where they are not data of the channel.
    @inline(__always)
    func bytes(at offset: UInt64, count: UInt64) -> UnsafeMutableRawPointer? {
        guard offset >= UInt64(LITE_CELL_OFFSET), offset <= UInt64(LITE_CHANNEL_BYTES),
            count <= UInt64(LITE_CHANNEL_BYTES) - offset
        else { return nil }
        return base + Int(offset)
    }

    // MARK: Completions, any thread

    /// Ends an operation.
    @inline(__always)
    func complete(_ slot: Int, _ status: Int32, value: UInt64 = 0, count: UInt64 = 0, node: UInt64 = 0) {
        post(slot, status, value: value, count: count, node: node)
        lego_atomic_fence()
        wake(slot)
    }

    /// Ends an operation, but for waking a program that sleeps: by `wake`, after a fence that may serve for several.
    @inline(__always)
    func post(_ slot: Int, _ status: Int32, value: UInt64 = 0, count: UInt64 = 0, node: UInt64 = 0) {
        let completion = completions + slot
        completion.pointee.status = status
        completion.pointee.value = value
        completion.pointee.count = count
        completion.pointee.node = node
        lego_atomic_store_u32(word(slot), lego_atomic_load_u32(sequences + slot))
    }

    @inline(__always)
    func wake(_ slot: Int) {
        if lego_atomic_load_u32(word(slot) + 15) != 0 { Futex.wake(word(slot)) }
    }

    @inline(__always)
    private func word(_ slot: Int) -> UnsafeMutablePointer<UInt32> {
        UnsafeMutableRawPointer(completions + slot).assumingMemoryBound(to: UInt32.self)
    }

    // MARK: Waits, any thread

    /// Enters a wait; nil when the slot has one already, which no honest program does, or the channel is closed.
    func begin(_ slot: Int, _ wait: Wait) -> WaitToken? {
        lock.lock()
        defer { lock.unlock() }
        if isClosed || waits[slot].kind != .none { return nil }
        generation = generation == Self.generation_max ? 1 : generation + 1
        waits[slot] = wait
        waits[slot].generation = generation
        return WaitToken(channel: number, slot: slot, generation: generation)
    }

    /// Takes a wait out, to end it; nil when it is over.
    func claim(_ token: WaitToken) -> Wait? {
        let slot = token.slot
        if slot >= Int(LITE_SLOTS) { return nil }
        lock.lock()
        defer { lock.unlock() }
        if waits[slot].kind == .none || waits[slot].generation != token.generation { return nil }
        defer { waits[slot].kind = .none }
        return waits[slot]
    }

    /// Takes the wait of a submission out.
    func claim(_ slot: Int, sequence: UInt32) -> Wait? {
        lock.lock()
        defer { lock.unlock() }
        if waits[slot].kind == .none || waits[slot].sequence != sequence { return nil }
        defer { waits[slot].kind = .none }
        return waits[slot]
    }

    /// The end of what was sent to another node for a wait: a message has been delivered or not, a call is not under
    /// way. Nothing happens for a wait that is over, or a call that arrived.
    func settle(_ token: WaitToken, _ status: Int32) {
        let slot = token.slot
        if slot >= Int(LITE_SLOTS) { return }
        lock.lock()
        let kind = waits[slot].kind
        let isEnded =
            kind != .none && waits[slot].generation == token.generation && (kind != .call || status != Code.ok)
        // What a reply was answered with before it was sent.
        let status = kind == .delivery && status == Code.ok ? Int32(truncatingIfNeeded: waits[slot].data) : status
        if isEnded { waits[slot].kind = .none }
        lock.unlock()
        if isEnded { complete(slot, status) }
    }

    /// The wait of a submission, which stays; nil when it is over.
    func current(_ slot: Int, sequence: UInt32) -> (Wait, WaitToken)? {
        lock.lock()
        defer { lock.unlock() }
        if waits[slot].kind == .none || waits[slot].sequence != sequence { return nil }
        return (waits[slot], WaitToken(channel: number, slot: slot, generation: waits[slot].generation))
    }

    /// Fails every wait that a lost node would have ended.
    func failWaits(of node: UInt64) {
        for slot in 0..<Int(LITE_SLOTS) {
            lock.lock()
            let isLost = waits[slot].kind != .none && waits[slot].kind != .receive && waits[slot].home == node
            if isLost { waits[slot].kind = .none }
            lock.unlock()
            if isLost { complete(slot, Code.noNode) }
        }
    }

    /// Takes the receives of a function out; answers their slots.
    func claimReceives(of function: UInt64) -> [Int] {
        lock.lock()
        defer { lock.unlock() }
        let slots = (0..<Int(LITE_SLOTS)).filter { waits[$0].kind == .receive && waits[$0].object == function }
        for slot in slots { waits[slot].kind = .none }
        return slots
    }

    /// Takes every wait out for good.
    func close() -> [(wait: Wait, token: WaitToken)] {
        lock.lock()
        defer { lock.unlock() }
        isClosed = true
        var left: [(wait: Wait, token: WaitToken)] = []
        for slot in 0..<Int(LITE_SLOTS) where waits[slot].kind != .none {
            let token = WaitToken(channel: number, slot: slot, generation: waits[slot].generation)
            left.append((waits[slot], token))
            waits[slot].kind = .none
        }
        return left
    }
}

/// The statuses of `lite.h`.
enum Code {
    static let ok = LITE_OK.rawValue
    static let invalid = LITE_EINVAL.rawValue
    static let noSpace = LITE_ENOSPACE.rawValue
    static let noName = LITE_ENOENT.rawValue
    static let exists = LITE_EEXIST.rawValue
    static let handle = LITE_EHANDLE.rawValue
    static let access = LITE_EACCESS.rawValue
    static let range = LITE_ERANGE.rawValue
    static let noNode = LITE_ENODE.rawValue
    static let timedOut = LITE_ETIMEDOUT.rawValue
    static let tooLarge = LITE_ETOOLARGE.rawValue
    static let busy = LITE_EBUSY.rawValue
    static let noFunction = LITE_ENOFUNCTION.rawValue
    static let gone = LITE_EGONE.rawValue
    static let notHeld = LITE_ENOTHELD.rawValue
    static let limit = LITE_ELIMIT.rawValue
}
