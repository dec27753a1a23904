import CLinux

/// Whether spinning pays. Where every thread has a processor to itself, what is waited for comes within the spin and
/// saves two thread switches; where processors are shared, the spinning thread keeps the very thread from running that
/// it waits for, and each side loses its whole spin. So each wait reports how its spin went, and spinning stops for as
/// long as it mostly fails.
///
/// Any number of threads share a gauge; an update that is lost among them does no harm.
public struct SpinGauge: ~Copyable, @unchecked Sendable {
    /// A success saves some 5 µs and a failure costs the spin on either side, some 40 µs: nine in ten must succeed.
    @usableFromInline static let failureCost: UInt32 = 9
    @usableFromInline static let credit_max: UInt32 = 36
    /// While spinning does not pay, a wait in as many tries it again.
    @usableFromInline static let probeEvery: UInt32 = 128

    @usableFromInline let credit: UnsafeMutablePointer<UInt32>
    @usableFromInline let skipped: UnsafeMutablePointer<UInt32>

    public init() {
        let line = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64)
        credit = line.bindMemory(to: UInt32.self, capacity: 2)
        credit.initialize(to: Self.credit_max)
        skipped = credit + 1
        skipped.initialize(to: 0)
    }

    deinit { UnsafeMutableRawPointer(credit).deallocate() }

    /// Whether the next wait should spin.
    @inlinable @inline(__always)
    public borrowing func shouldSpin() -> Bool {
        if lego_atomic_load_u32(credit) >= Self.failureCost { return true }
        let count = lego_atomic_load_u32(skipped) &+ 1
        lego_atomic_store_u32(skipped, count)
        return count % Self.probeEvery == 0
    }

    /// What was waited for came while the thread span.
    @inlinable @inline(__always)
    public borrowing func succeed() {
        let now = lego_atomic_load_u32(credit)
        if now < Self.credit_max { lego_atomic_store_u32(credit, now + 1) }
    }

    /// The thread span in vain.
    @inlinable @inline(__always)
    public borrowing func fail() {
        let now = lego_atomic_load_u32(credit)
        lego_atomic_store_u32(credit, now < Self.failureCost ? 0 : now - Self.failureCost)
    }
}
