/// Whether pages that come back by a read are written to before they leave: a reference count that is read before it is
/// raised, a sum in a matrix. Bringing them writable saves the fault of the first write; bringing one so that is only read
/// costs a write-back that nobody waits for.
///
/// What is brought writable is not seen to be written. Every sixteenth such page, or every 64th where most are written, is
/// therefore brought write-protected, and what becomes of those says how it is: for each 2 MiB of addresses apart (by a
/// hash), because a program's data structures differ. Owned by the monitor thread; no allocation after `init`.
struct WriteHabit: ~Copyable {
    private static let regionBits: UInt64 = 9
    /// From here on it pays: a fault costs the program some ten times what a write-back costs another processor.
    private static let share_min: Int16 = 128
    private static let share_high: Int16 = 512

    /// Parts of 1024 that were written, of the last few pages brought write-protected.
    private let shares: UnsafeMutablePointer<Int16>
    private var brought: UInt32 = 0

    init() {
        shares = .allocate(capacity: 1 << Int(Self.regionBits))
        shares.initialize(repeating: 0, count: 1 << Int(Self.regionBits))
    }

    deinit { shares.deallocate() }

    /// Whether a page shall be writable.
    @inline(__always)
    mutating func assumesWrite(_ page: UInt64) -> Bool {
        brought &+= 1
        let share = shares[PageHash.slot(page >> 9, Self.regionBits)]
        return share >= Self.share_min && brought & (share < Self.share_high ? 15 : 63) != 0
    }

    /// A page that was write-protected has been written to, or has left.
    @inline(__always)
    mutating func note(_ page: UInt64, isWritten: Bool) {
        let share = shares + PageHash.slot(page >> 9, Self.regionBits)
        share.pointee += ((isWritten ? 1024 : 0) - share.pointee) / 8
    }
}
