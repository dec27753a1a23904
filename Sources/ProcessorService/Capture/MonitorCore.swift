import CAgent
import CLinux
import Glibc
import Kernel
import Logging
import Synchronization
import Wire

/// The state of one program's monitor: its address spaces, their pages, its remote memory. There is no lock in it:
/// everything is owned by the monitor thread from `run` to its end, and by `ProgramMonitor.init` before.
///
/// Extensions by concern: the loop, notifications and trapped calls, injection, faults, eviction, fork, co-location.
final class MonitorCore: @unchecked Sendable {
    let program: ProgramID
    /// Tells this monitor's address spaces from those of every other, on a host where several processors may run.
    /// Where the names of its mapped files are; nil: they have none.
    let procTree: ProcTree?
    /// The directory of its user in there, which is the tree's; -1: none.
    let namesDirectory: Int32
    /// Whom it runs as, for the trees of names.
    let user: UInt32
    /// Where it may run; empty: anywhere.
    let processors: ProcessorSet
    /// The memory that it sees; nil: the host's.
    let memory: MemoryFigures?
    /// Pages that the program has made and not given back, wherever they are; what a fork shares counts once.
    var charged = 0
    /// The most pages that it may have, here and remote; 0: no limit.
    let quotaPages: Int
    let nonce = UInt64.random(in: 1 ... .max)
    let name: String
    let logger: Logger
    let listener: Descriptor
    let initProcess: Int32
    let guardian: Int32
    let cache: ExCache
    let share: CacheShare
    let counters: ProgramCounters
    let store: RemoteStore
    let mailbox: MonitorMailbox
    let onFatal: @Sendable (ProgramFailure) -> Void
    /// Most pages that the program may hold.
    let limitPages: Int
    /// Most pages of one window, and of one eviction.
    let windowPages: Int
    let batchPages: Int
    /// /dev/userfaultfd.
    let userfaultDevice: Descriptor
    let epoll: Epoll
    /// For what the loop does now and then.
    let timer: TimerDescriptor
    /// When it fires; `.never` when it has.
    var timerSet = Deadline.never

    /// Address spaces by slot; slots are reused, generations tell them apart.
    var spaces: [AddressSpace?] = []
    var generations: [UInt32] = []
    /// Pages of the program in local memory.
    var resident = 0
    /// Pages that ever became resident: the clock of the eviction queues, in units of 64.
    var arrivals: UInt64 = 0
    /// Pages that ever were evicted: the clock of refaults, in units of 64.
    var departures: UInt64 = 0
    /// Departures, in units of 64, after which a page's return proves nothing any more: as many as the limit has pages.
    let refaultWindow: UInt64
    /// Set once the rack must end the program: nothing is answered any more, so that no page can read as what it is
    /// not.
    var hasFailed = false
    /// The listener says that no process uses the filter any more.
    var isListenerDone = false
    /// The listeners of the filters of processes that joined. Owned; closed when their last process has ended.
    var joinedListeners: [Int32] = []
    /// Forks whose events were read and whose tables are not copied yet.
    var pendingForks: [(parent: AddressSpace, descriptor: Int32)] = []
    /// Room that forks under way will take, oldest first, and its sum in pages.
    var forkReserves: [ForkReserve] = []
    var reservedPages = 0
    /// Pages of memory that is not watched, of all address spaces.
    var unwatchedPages = 0
    /// Notifications that arrived while another one was waited for.
    var setAside: [lego_notification] = []
    var threads = ThreadTable()
    /// Agents in a row that were killed before they were known.
    var agentsKilled = 0
    var colocation = Colocation()
    /// Processes that were left to the kernel when they started a program, each with what tells that program's image
    /// from a later one's.
    var natives: [Int32: UInt64] = [:]
    /// Seccomp filters of a thread that has put none upon itself.
    let sandboxFilters: Int
    /// Magic numbers of file systems by the number of a mount that files were mapped from.
    var fileSystems: [UInt64: UInt64] = [:]
    static let fileSystems_max = 256
    /// A process has changed its limits: no agent has them.
    var limitsChanged = false
    /// Agents that were forgotten, by their numbers in this pid namespace, until they are seen to be reaped.
    var endedAgents: [Int32] = []
    /// A command to an agent's first thread is under way: no other may be given.
    var isAgentBusy = false
    /// Pages that leave because room is needed, and those that leave ahead of it.
    let batch: EvictionBatch
    var ahead: Ahead
    /// Pages that are kept free by eviction ahead of need.
    let aheadPages: Int
    /// The program has done what may pin its pages for a device that writes to them.
    var mayBePinned = false

    // Fixed arrays of the hot path.
    let messages: UnsafeMutablePointer<lego_uffd_message>
    /// Pages that leave by a copy, and pages that lie in the write buffer.
    let victims: UnsafeMutablePointer<UInt64>
    let victimEntries: UnsafeMutablePointer<PageEntry>
    /// Pages of zeros, the source of zero-fills.
    let zeros: UnsafeMutableRawPointer
    static let zeroFillPages_max = 64
    /// A page of the program that is scanned for pointers, what was found, and where that is stored.
    let scanned: UnsafeMutablePointer<UInt64>
    let followed: UnsafeMutablePointer<UInt64>
    let followedEntries: UnsafeMutablePointer<PageEntry>
    /// Most pages that are brought at a time because something points to them.
    let followPages: Int
    static let messages_max = 16

    init(
        seat: ProgramSeat, listener: consuming Descriptor, cache: ExCache, remote: RemoteMemory,
        mailbox: MonitorMailbox, logger: Logger, onFatal: @escaping @Sendable (ProgramFailure) -> Void
    ) throws(KernelError) {
        self.program = seat.program
        self.name = seat.name
        procTree = seat.procTree
        user = seat.user
        namesDirectory = seat.procTree?.namesDirectory(of: seat.user) ?? -1
        processors = seat.processors
        memory = seat.memory
        quotaPages = Int(clamping: seat.quotaBytes / Page.bytes)
        self.logger = logger
        self.listener = listener
        self.initProcess = seat.initProcess
        self.guardian = seat.guardian
        self.cache = cache
        self.mailbox = mailbox
        self.onFatal = onFatal
        counters = mailbox.counters
        sandboxFilters = 1 + (ProcessFiles.statusField(initProcess, "Seccomp_filters").flatMap { Int($0) } ?? 0)
        share = try CacheShare(counters: counters)
        store = try RemoteStore(program: seat.program, remote: remote, counters: counters)
        let asked = seat.limitBytes == 0 ? cache.capacityPages : Int(clamping: seat.limitBytes / Page.bytes)
        let allowed = quotaPages > 0 ? min(asked, quotaPages) : asked
        limitPages = max(ExCache.minimumPages, min(allowed, cache.capacityPages))
        refaultWindow = UInt64(max(1, limitPages / 64))
        windowPages = max(1, min(RemoteStore.window, limitPages / 16))
        followPages = max(1, min(RemoteStore.window, limitPages / 64))
        batchPages = max(8, min(Int(LEGO_AGENT_BATCH), limitPages / 16))
        aheadPages = min(2 * batchPages, limitPages / 32)
        batch = EvictionBatch(writeBack: WriteBack(node: remote.node, staging: store.writeBuffer))
        let aheadBatch = EvictionBatch(writeBack: WriteBack(node: remote.node, staging: store.aheadBuffer))
        ahead = Ahead(evictor: BackgroundEvictor(batch: aheadBatch))
        userfaultDevice = try Descriptor(checking: "open /dev/userfaultfd", lego_uffd_open_device())
        epoll = try Epoll()
        timer = try TimerDescriptor()
        messages = .allocate(capacity: Self.messages_max)
        victims = .allocate(capacity: Int(LEGO_AGENT_BATCH))
        victimEntries = .allocate(capacity: Int(LEGO_AGENT_BATCH))
        victimEntries.initialize(repeating: PageEntry(), count: Int(LEGO_AGENT_BATCH))
        zeros = .allocate(byteCount: Self.zeroFillPages_max * Int(Page.bytes), alignment: Int(Page.bytes))
        zeros.initializeMemory(as: UInt8.self, repeating: 0, count: Self.zeroFillPages_max * Int(Page.bytes))
        scanned = .allocate(capacity: 512)
        followed = .allocate(capacity: RemoteStore.window)
        followedEntries = .allocate(capacity: RemoteStore.window)
        followedEntries.initialize(repeating: PageEntry(), count: RemoteStore.window)
        try epoll.add(self.listener.raw, token: Token.listener(self.listener.raw).word)
        try epoll.add(mailbox.wake.raw, token: Token.mailbox.word)
        try epoll.add(share.shrinkRequest.raw, token: Token.shrink.word)
        try epoll.add(timer.raw, token: Token.timer.word)
        cache.join(share)
    }

    deinit {
        for joined in joinedListeners { close(joined) }
        messages.deallocate()
        victims.deallocate()
        victimEntries.deallocate()
        zeros.deallocate()
        scanned.deallocate()
        followed.deallocate()
        followedEntries.deallocate()
    }

    /// What an epoll event is about.
    enum Token {
        case listener(Int32)
        case mailbox
        case shrink
        case timer
        case userfault(slot: Int, generation: UInt32)
        case agent(slot: Int, generation: UInt32)
        case user(slot: Int, generation: UInt32)

        private static func word(_ kind: UInt64, _ slot: Int, _ generation: UInt32) -> UInt64 {
            kind << 60 | UInt64(slot & 0xfff_ffff) << 32 | UInt64(generation)
        }
        var word: UInt64 {
            switch self {
            case .listener(let raw): 1 << 60 | UInt64(UInt32(bitPattern: raw))
            case .mailbox: 2 << 60
            case .shrink: 3 << 60
            case .timer: 7 << 60
            case .userfault(let slot, let generation): Self.word(4, slot, generation)
            case .agent(let slot, let generation): Self.word(5, slot, generation)
            case .user(let slot, let generation): Self.word(6, slot, generation)
            }
        }
        static let listenerKind: UInt64 = 1
        static let userfaultKind: UInt64 = 4
        static let agentKind: UInt64 = 5
        static let userKind: UInt64 = 6
    }

    /// The live address space that an event or an identity names.
    func space(slot: Int, generation: UInt32) -> AddressSpace? {
        guard slot < spaces.count, let space = spaces[slot], space.generation == generation else { return nil }
        return space
    }

    /// Ends the program: says why, once, and answers nothing from now on.
    func fail(_ failure: ProgramFailure) {
        if hasFailed { return }
        hasFailed = true
        logger.error("program failed", metadata: ["program": "\(program)", "reason": "\(failure.reason)"])
        onFatal(failure)
    }

    /// Fails the program if its remote memory has.
    func checkStore() { if let failure = store.failure { fail(failure) } }
}

/// What other threads tell a monitor.
final class MonitorMailbox: Sendable {
    let wake: EventDescriptor
    let counters = ProgramCounters()
    let isStopping = Atomic<Bool>(false)
    let lost = Mutex<[NodeID]>([])
    let cores = Mutex<[CoreRequest]>([])
    /// Listeners of processes that joined, owned by the list until the monitor takes them.
    let listeners = Mutex<[Int32]>([])

    init() throws(KernelError) { wake = try EventDescriptor() }

    deinit { for listener in listeners.withLock({ $0 }) { close(listener) } }
}
