import Glibc
import Kernel

/// What the kernel says of a process's pages: pagemap(5), one word a page. For its monitor's thread.
struct PageMap: ~Copyable {
    /// A page's word.
    struct Word: BitwiseCopyable {
        let raw: UInt64

        /// In memory or in swap: the page is there, or a guard in its place.
        var isThere: Bool { raw >> 62 != 0 }
        /// A page of a file, or shared memory.
        var isFilePage: Bool { raw >> 61 & 1 != 0 }
        /// MADV_GUARD_INSTALL (since Linux 6.15; 0 before).
        var isGuard: Bool { raw >> 58 & 1 != 0 }
        /// Mapped here alone.
        var isExclusive: Bool { raw >> 56 & 1 != 0 }
    }

    private let file: Descriptor

    init(of process: Int32) throws(KernelError) { file = try ProcessFiles.open(process, "pagemap") }

    /// nil when the process has ended, or has no such page. One system call.
    func word(of page: UInt64) -> Word? {
        var word: UInt64 = 0
        return pread(file.raw, &word, 8, off_t(page * 8)) == 8 ? Word(raw: word) : nil
    }

    /// The words of pages from `first` on; fewer than there is room for where the process has ended.
    private func read(_ first: UInt64, into words: UnsafeMutableBufferPointer<UInt64>) -> Int {
        max(0, pread(file.raw, words.baseAddress!, words.count * 8, off_t(first * 8)) / 8)
    }

    /// Runs `body` for each of `pages` that is there. Reads 512 words at a time.
    func forEachThere<Failure: Error>(
        in pages: Range<UInt64>, _ body: (UInt64, Word) throws(Failure) -> Void
    ) throws(Failure) {
        var words = InlineArray<512, UInt64>(repeating: 0)
        var first = pages.lowerBound
        while first < pages.upperBound {
            let wanted = min(512, Int(pages.upperBound - first))
            var span = words.mutableSpan
            let count = span.withUnsafeMutableBufferPointer { read(first, into: .init(rebasing: $0[..<wanted])) }
            if count == 0 { return }
            for index in 0..<count {
                let word = Word(raw: words[index])
                if word.isThere { try body(first + UInt64(index), word) }
            }
            first += UInt64(count)
        }
    }
}
