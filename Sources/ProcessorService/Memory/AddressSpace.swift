import CLinux
import Kernel

/// One address space of a program: a kernel mm, born by exec or fork, shared by all threads and by whoever vforked.
/// Everything in it is owned by the program's monitor thread.
final class AddressSpace {
    /// A process that is known to run in this address space.
    struct User {
        /// In the processor's pid namespace.
        var process: Int32
        var descriptor: Int32
        /// In the program's; 0: not asked for yet.
        var innerNumber: Int32 = 0
    }

    /// Its place in the monitor's table, and how many had that place before, plus one.
    let slot: Int
    let generation: UInt32
    /// What the program's memory says at `LEGO_AGENT_BASE`; never 0.
    var identity: UInt64 { UInt64(generation) << 32 | UInt64(slot) }
    let userfault: Descriptor
    var table = PageTable()
    var regions = RegionTable()
    /// Resident pages in the order of their leaving (`AddressSpace+Queues.swift`).
    var probation = EvictionQueue()
    var proven = EvictionQueue(of: PageEntry.proven)
    var retained = EvictionQueue(of: PageEntry.retained)
    var residentProven = 0
    var residentRetained = 0
    var retention = LoopRetention()
    var streams = StreamDetector()
    /// First writes to pages that were mapped write-protected.
    var writes = StreamDetector()
    var habit = WriteHabit()
    var strides = StrideDetector()
    var trail = PointerTrail()
    /// Pages in local memory.
    var resident = 0
    /// Pages of regions that are not watched.
    var unwatched: (fresh: Int, ofFiles: Int) = (0, 0)
    /// Whether there may be files among them that have not been tried to watch.
    var hasWatchableFiles = false
    /// Below this address the next file is mapped; 0: none was.
    var filePlace: UInt64 = 0
    /// Pages that it made and has not given back.
    var charged = 0
    /// The address space that it began as a copy of, while that lives.
    weak var forkedFrom: AddressSpace?
    /// nil in a forked child that has made no trapped call yet, and after the agent was killed.
    var agent: Agent?
    /// The memory that the agent runs from; kept when the agent dies, because it stays mapped in the program.
    var agentMemory: MemoryFile?
    /// Whether what the kernel mapped at exec, or the parent at fork, is in the tables. False again and again while agents
    /// are killed that were about to do it.
    var isTakenOver = false
    /// The file mapping that an agent is about to replace.
    var replacement: Replacement?
    /// The program break.
    var breakEnd: UInt64 = 0
    /// Address of a `syscall` instruction outside the agent, in the vDSO; 0: not known.
    var systemCallInstruction: UInt64 = 0
    var users: [User] = []
    var actions = SignalActions()
    /// Faults that could not be served while the address space was changing.
    var deferred: [lego_uffd_message] = []
    /// Pages of futexes that a thread's last call may still have the kernel write to, and how many threads hold each.
    var heldWords: [Int32: [UInt64]] = [:]
    var holders: [UInt64: Int] = [:]
    /// Memory that appears is locked at once (MCL_FUTURE).
    var locksFuture = false
    /// Its memory is the kernel's alone.
    var isNative = false
    /// The kernel says that it is gone.
    var isDead = false
    /// The eviction that looks for a page now found none here.
    var isStuck = false
    /// An injection is under way: no eviction here until it ends.
    var isInjecting = false

    /// Whether a page belongs to the kernel's own mapping of a file.
    func hasMappedFile(at page: UInt64) -> Bool {
        if unwatched.ofFiles == 0 { return false }
        guard let index = regions.index(of: page) else { return false }
        return regions.regions[index].isMappedFile
    }

    init(slot: Int, generation: UInt32, userfault: consuming Descriptor) {
        self.slot = slot
        self.generation = generation
        self.userfault = userfault
    }

    deinit { for user in users { _ = Descriptor(taking: user.descriptor) } }
}
