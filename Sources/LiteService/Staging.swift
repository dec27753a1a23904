import CLinux
import CLite
import Kernel

/// A serving thread's part of the node's pool: what goes to and comes from nodes on other hosts passes through it.
struct Staging: @unchecked Sendable {
    /// The largest message with its header, whole pages.
    static let bytes = (Int(LITE_MESSAGE_MAX) + CallHeader.encodedSize + 4095) & ~4095
    let base: UnsafeMutableRawPointer
}

/// Who looks for work: one of the serving threads at a time. Before it waits for another node it lets another thread
/// look.
final class Leadership: @unchecked Sendable {
    private enum Word {
        static let free: UInt32 = 0
        static let taken: UInt32 = 1
    }
    private let words: UnsafeMutablePointer<UInt32>

    init() {
        words = .allocate(capacity: 2)
        words.initialize(repeating: 0, count: 2)
    }

    deinit { words.deallocate() }

    /// Waits until it is the caller's.
    func take() {
        while true {
            var expected = Word.free
            if lego_atomic_compare_exchange_u32(words, &expected, Word.taken) { return }
            _ = lego_atomic_add_u32(words + 1, 1)
            Futex.wait(words, while: Word.taken, until: .never)
            _ = lego_atomic_add_u32(words + 1, .max)
        }
    }

    /// Gives it to a thread that waits, or to the first that comes.
    func give() {
        _ = lego_atomic_exchange_u32(words, Word.free)
        if lego_atomic_load_u32(words + 1) != 0 { Futex.wake(words) }
    }
}
