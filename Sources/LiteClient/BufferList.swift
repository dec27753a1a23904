import CLinux
import CLite
import Kernel

/// The buffers of a session: which number the daemon knows the memory at an address by. Looked up with every transfer,
/// without a lock: an entry is entered before its address is given out, and taken out by the last who uses it.
final class BufferList: @unchecked Sendable {
    private struct Entry {
        /// 0: free. The memory's first byte, stored last.
        var base: UInt64 = 0
        var count: UInt64 = 0
        var number: UInt64 = 0
    }
    private let entries: UnsafeMutablePointer<Entry>
    /// Entries that were ever used: what a look-up walks through.
    private let used: UnsafeMutablePointer<UInt32>
    private let lock = AdaptiveLock()
    // Protected by `lock`.
    private var files: [MemoryFile?]

    init() {
        entries = .allocate(capacity: Int(LITE_BUFFERS))
        entries.initialize(repeating: Entry(), count: Int(LITE_BUFFERS))
        used = .allocate(capacity: 1)
        used.initialize(to: 0)
        files = Array(repeating: nil, count: Int(LITE_BUFFERS))
    }

    deinit {
        entries.deallocate()
        used.deallocate()
    }

    private func baseWord(_ index: Int) -> UnsafeMutablePointer<UInt64> {
        UnsafeMutableRawPointer(entries + index).assumingMemoryBound(to: UInt64.self)
    }

    /// Where a transfer's memory lies, as a submission names it; nil for memory that is in no buffer. Cost without
    /// buffers: one load.
    @inline(__always)
    func place(_ address: UnsafeRawPointer, _ count: Int) -> UInt64? {
        let used = lego_atomic_load_u32(used)
        return used == 0 ? nil : search(UInt64(UInt(bitPattern: address)), UInt64(count), Int(used))
    }

    private func search(_ address: UInt64, _ count: UInt64, _ used: Int) -> UInt64? {
        for index in 0..<used {
            let base = lego_atomic_load_u64(baseWord(index))
            if base == 0 || address < base || address - base >= entries[index].count { continue }
            // A range that goes beyond a buffer's end is copied like any other.
            if count > entries[index].count - (address - base) { return nil }
            return entries[index].number << UInt64(LITE_BUFFER_SHIFT) | (address - base)
        }
        return nil
    }

    /// Enters a buffer; answers its first byte, or nil for a number that there is not.
    func add(_ file: MemoryFile, number: UInt64) -> UnsafeMutableRawPointer? {
        guard (1...UInt64(LITE_BUFFERS)).contains(number) else { return nil }
        lock.lock()
        defer { lock.unlock() }
        let index = Int(number) - 1
        if files[index] != nil { return nil }
        files[index] = file
        entries[index].count = UInt64(file.count)
        entries[index].number = number
        lego_atomic_store_u64(baseWord(index), UInt64(UInt(bitPattern: file.base)))
        if lego_atomic_load_u32(used) < UInt32(number) { lego_atomic_store_u32(used, UInt32(number)) }
        return file.base
    }

    /// Takes out the buffer that begins at an address; the caller unmaps it by letting it go.
    func remove(_ address: UnsafeRawPointer) -> (number: UInt64, file: MemoryFile)? {
        lock.lock()
        defer { lock.unlock() }
        guard let index = files.firstIndex(where: { $0.map { UnsafeRawPointer($0.base) == address } ?? false }),
            let file = files[index]
        else { return nil }
        lego_atomic_store_u64(baseWord(index), 0)
        files[index] = nil
        return (entries[index].number, file)
    }
}
