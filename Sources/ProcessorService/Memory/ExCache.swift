import Kernel
import Synchronization
import Wire

/// The processor's page cache (LegoOS's ExCache): how many pages of local memory its programs may hold together. It
/// holds no pages itself: a program's monitor reserves room here, in batches, before it maps a page, and evicts its own
/// pages when it gets none. Any thread.
///
/// When the cache is full, a program that holds less than its fair share (capacity / programs) makes the others shrink
/// to theirs. A program may always hold `minimumPages`, so that it can make progress and nothing ever waits for another
/// program.
///
/// Lock order: `members` is a leaf.
public final class ExCache: Sendable {
    /// What every program may hold however full the cache is.
    static let minimumPages = 64
    /// Pages taken at a time while there is plenty.
    private static let batchPages = 256

    let capacityPages: Int
    /// The host's processors that programs are held on.
    let processors = ProcessorClaims()
    /// Pages granted to programs, those that they hold beyond the capacity by right of the minimum included.
    private let granted = Atomic<Int>(0)
    private let members = Mutex<[CacheShare]>([])

    public init(capacityBytes: UInt64) { capacityPages = max(Self.minimumPages, Int(capacityBytes / Page.bytes)) }

    /// Bytes of program pages that are in local memory now.
    public var residentBytes: UInt64 {
        members.withLock { members in
            members.reduce(0) { $0 + $1.counters.residentPages.load(ordering: .relaxed) } * Page.bytes
        }
    }

    func join(_ share: CacheShare) { members.withLock { $0.append(share) } }

    /// Gives everything back that the program holds.
    func leave(_ share: CacheShare) {
        members.withLock { members in
            members.removeAll { $0 === share }
            // With one program fewer, the others may grow again.
            for member in members { member.ceilingPages.store(.max, ordering: .relaxed) }
        }
        granted.subtract(share.granted, ordering: .relaxed)
        share.granted = 0
    }

    /// Reserves at least `pages` more for a program; called by its monitor. False when the cache is full.
    func reserve(_ pages: Int, for share: CacheShare) -> Bool {
        if take(max(pages, min(Self.batchPages, capacityPages / 64)), for: share) || take(pages, for: share) {
            return true
        }
        if share.granted + pages <= Self.minimumPages {
            granted.add(pages, ordering: .relaxed)
            share.granted += pages
            return true
        }
        demand(for: share)
        return false
    }

    /// Whether that many pages are granted to nobody.
    @inline(__always)
    func hasRoom(_ pages: Int) -> Bool { granted.load(ordering: .relaxed) + pages <= capacityPages }

    private func take(_ pages: Int, for share: CacheShare) -> Bool {
        var now = granted.load(ordering: .relaxed)
        while now + pages <= capacityPages {
            let (done, found) = granted.compareExchange(
                expected: now, desired: now + pages, ordering: .acquiringAndReleasing)
            if done {
                share.granted += pages
                return true
            }
            now = found
        }
        return false
    }

    /// Gives back what the program does not use.
    func release(_ pages: Int, of share: CacheShare) {
        share.granted -= pages
        granted.subtract(pages, ordering: .acquiringAndReleasing)
    }

    /// Makes those shrink that hold more than their fair share, if the asking program holds less than its own.
    private func demand(for share: CacheShare) {
        members.withLock { members in
            let fair = max(Self.minimumPages, capacityPages / max(1, members.count))
            if share.granted >= fair { return }
            for member in members where member !== share && member.ceilingPages.load(ordering: .relaxed) > fair {
                if member.counters.residentPages.load(ordering: .relaxed) <= UInt64(fair) { continue }
                member.ceilingPages.store(fair, ordering: .relaxed)
                member.shrinkRequest.signal()
            }
        }
    }
}

/// One program's part of the ExCache.
final class CacheShare: Sendable {
    let counters: ProgramCounters
    /// Most pages that the program may hold: `Int.max`, or its fair share when others are in need. Written by any
    /// thread.
    let ceilingPages = Atomic<Int>(.max)
    /// Signalled when the ceiling was lowered.
    let shrinkRequest: EventDescriptor
    private let grantedPages = Atomic<Int>(0)

    init(counters: ProgramCounters) throws(KernelError) {
        self.counters = counters
        shrinkRequest = try EventDescriptor()
    }

    /// Pages reserved. Written by the program's monitor thread only.
    var granted: Int {
        get { grantedPages.load(ordering: .relaxed) }
        set { grantedPages.store(newValue, ordering: .relaxed) }
    }
}
