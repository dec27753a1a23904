import CAgent
import CLinux
import Glibc
import Kernel
import Wire

/// Calls whose answer would be the host's and not the rack's: how much memory there is, who runs, and where the program
/// may run.
extension MonitorCore {
    // MARK: Writing to the program

    /// Writes into the program's memory as the kernel would for a call: by the agent, in the program's address space and
    /// with its rights. Pages that are not here are brought first, because nobody serves faults meanwhile.
    func writeProgram(_ space: AddressSpace, _ address: UInt64, _ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let agent = space.agent else { return false }
        let offset = MemoryLayout<lego_agent_page>.offset(of: \.name).unsafelyUnwrapped
        let target = UnsafeMutableRawPointer(agent.calls.page) + offset
        var done = 0
        while done < bytes.count {
            let at = address &+ UInt64(done)
            let count = min(bytes.count - done, Int(Page.bytes - at % Page.bytes))
            bring(space, Page.number(at))
            if space.agent !== agent { return false }
            target.copyMemory(from: bytes.baseAddress! + done, byteCount: count)
            let written = agentCall(
                space, SystemCall.pread64, UInt64(LEGO_AGENT_MEMORY_DESCRIPTOR), at, UInt64(count),
                UInt64(LEGO_AGENT_PAGE_OFFSET) + UInt64(offset))
            if written != Int64(count) { return false }
            done += count
        }
        noteResident()
        return true
    }

    /// Makes a page resident and writable, if it is one that this manages.
    func bring(_ space: AddressSpace, _ page: UInt64) {
        awaitAhead(of: space)
        if page >= Page.count_max { return }
        // A stack grows beyond its region.
        if space.regions.overlaps(page..<page + 1) || space.table.find(page)?.pointee.isUntouched == false {
            bringNow(space, page)
        }
    }

    // MARK: Memory

    /// sysinfo(2): the rack's memory, as /proc/meminfo has it.
    func systemInformation(_ space: AddressSpace, _ address: UInt64) -> Outcome {
        guard let memory else { return .proceed }
        return withUnsafeTemporaryAllocation(byteCount: 256, alignment: 8) { information in
            let bytes = lego_system_information(
                information.baseAddress!, information.count, memory.totalBytes, memory.freeBytes)
            if bytes < 0 { return .proceed }
            let isWritten = writeProgram(space, address, UnsafeRawBufferPointer(rebasing: information[..<bytes]))
            return .answer(isWritten ? 0 : -Int64(EFAULT))
        }
    }

    // MARK: Processes

    /// The root directory of proc(5), and what its first process and the agents have there.
    private static let procMagic: UInt64 = 0x9fa0
    private static let procRootInode: UInt64 = 1
    private static let listingBytes_max = 32 << 10

    /// getdents64(2): /proc without helpers. Any other directory is the kernel's.
    func listDirectory(_ space: AddressSpace, _ notification: lego_notification) -> Outcome {
        let a = notification.arguments
        guard let directory = descriptor(space, notification, Int32(truncatingIfNeeded: a.0)) else { return .proceed }
        var status = stat()
        if fstat(directory.raw, &status) < 0 || status.st_ino != Self.procRootInode { return .proceed }
        var magic: UInt64 = 0
        var mountFlags: UInt64 = 0
        if lego_file_system(directory.raw, &magic, &mountFlags) < 0 || magic != Self.procMagic { return .proceed }
        // A proc(5) of a namespace of the program's own has others by these numbers.
        let helpers = helperNumbers().filter { Self.isHelper($0, listedIn: directory.raw) }
        let room = Int(min(a.2 & 0xffff_ffff, UInt64(Self.listingBytes_max)))
        let bytes = UnsafeMutableRawPointer.allocate(byteCount: max(room, 8), alignment: 8)
        defer { bytes.deallocate() }
        while true {
            // The copy shares its position with the program's descriptor.
            let count = Int(lego_directory_read(directory.raw, bytes, room))
            if count <= 0 { return .answer(Int64(count)) }
            let kept = Self.remove(helpers, from: UnsafeMutableRawBufferPointer(start: bytes, count: count))
            if kept == 0 { continue }
            let isWritten = writeProgram(space, a.1, UnsafeRawBufferPointer(start: bytes, count: kept))
            return .answer(isWritten ? Int64(kept) : -Int64(EFAULT))
        }
    }

    private static let helperNames = ["lego-init\n", Agent.name + "\n"]

    private static func isHelper(_ number: Int32, listedIn directory: Int32) -> Bool {
        let raw = openat(directory, "\(number)/comm", O_RDONLY | O_CLOEXEC)
        if raw < 0 { return false }
        let file = Descriptor(taking: raw)
        let name = withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 64) { bytes in
            let count = read(file.raw, bytes.baseAddress, bytes.count)
            return String(decoding: bytes[..<max(0, count)], as: UTF8.self)
        }
        return helperNames.contains(name)
    }

    /// Takes the entries of processes out of a listing (struct linux_dirent64); answers how many bytes are left.
    private static func remove(_ numbers: Set<Int32>, from listing: UnsafeMutableRawBufferPointer) -> Int {
        let nameOffset = 19
        var kept = 0
        var at = 0
        while at + nameOffset < listing.count {
            let length = Int(listing.loadUnaligned(fromByteOffset: at + 16, as: UInt16.self))
            if length < nameOffset || at + length > listing.count { break }
            let name = listing[(at + nameOffset)..<(at + length)].prefix { $0 != 0 }
            let number = Int32(String(decoding: name, as: UTF8.self))
            if number == nil || !numbers.contains(number!) {
                memmove(listing.baseAddress! + kept, listing.baseAddress! + at, length)
                kept += length
            }
            at += length
        }
        return kept
    }

    /// Process numbers, as the program sees them, of what is not the program's.
    private func helperNumbers() -> Set<Int32> {
        var numbers: Set<Int32> = [1]
        for space in spaces { if let agent = space?.agent { numbers.insert(agent.innerNumber) } }
        endedAgents.removeAll { !Self.isUnreaped($0) }
        for process in endedAgents { if let number = ProcessFiles.innermostNumber(process) { numbers.insert(number) } }
        return numbers
    }

    // MARK: Processors

    /// sched_setaffinity(2) within the CPUs that the program was given, as cpuset(7) does it: what lies outside is left
    /// out, and what leaves nothing is refused.
    func setAffinity(_ space: AddressSpace, _ notification: lego_notification) -> Outcome {
        if processors.isEmpty { return .proceed }
        let a = notification.arguments
        var mask = [UInt64](repeating: 0, count: Colocation.words)
        let bytes = min(Int(a.1 & 0xffff_ffff), mask.count * 8)
        let isRead = mask.withUnsafeMutableBytes {
            readProgram(space, a.2, into: UnsafeMutableRawBufferPointer(rebasing: $0[..<bytes]))
        }
        if !isRead { return .exact(-Int64(EFAULT)) }
        let wanted = ProcessorSet(words: mask).intersection(processors)
        if wanted.isEmpty { return .exact(-Int64(EINVAL)) }
        let number = Int32(truncatingIfNeeded: a.0)
        if number < 0 { return .exact(-Int64(EINVAL)) }
        guard let thread = number == 0 ? notification.thread : find(number, besides: notification.thread) else {
            return .exact(-Int64(ESRCH))
        }
        if !mayControl(thread, notification.thread) { return .exact(-Int64(EPERM)) }
        return .exact(Int64(lego_thread_set_affinity(thread, wanted.words, wanted.words.count)))
    }

    /// The thread of the program that the program numbers so, in this pid namespace. Reads /proc.
    private func find(_ number: Int32, besides caller: Int32) -> Int32? {
        if helperNumbers().contains(number) { return nil }
        if ProcessFiles.isNumbered(caller, innermost: number) { return caller }
        return ProcessFiles.find(number, besides: caller)
    }

    /// Whether a thread may do that to another one: of the same user, or as root.
    private func mayControl(_ target: Int32, _ caller: Int32) -> Bool {
        if target == caller { return true }
        func users(_ thread: Int32) -> [UInt32] {
            (ProcessFiles.statusField(thread, "Uid") ?? "").split(separator: "\t").compactMap { UInt32($0) }
        }
        let (own, its) = (users(caller), users(target))
        if own.count < 2 || its.count < 2 { return false }
        // Effective against real and effective.
        return own[1] == 0 || own[1] == its[0] || own[1] == its[1]
    }
}
