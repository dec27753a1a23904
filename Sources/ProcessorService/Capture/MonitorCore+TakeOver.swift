import CAgent
import CLinux
import Glibc
import Kernel

/// Takes over what the kernel mapped when it loaded a program: from then on all of its private memory is anonymous,
/// registered, and in the tables.
extension MonitorCore {
    /// All threads of the new image are stopped: it has one.
    func takeOver(_ space: AddressSpace, _ thread: Int32) throws(Tracee.Failure) {
        do {
            let areas = try ProcessFiles.areas(thread)
            let map = try ProcessFiles.open(thread, "pagemap")
            let agentEnd = UInt64(LEGO_AGENT_BASE) + UInt64(LEGO_AGENT_SPAN)
            for area in areas {
                if area.name == "[vdso]" { findSystemCall(space, area) }
                if area.name.hasPrefix("[v") || !area.isPrivate { continue }
                if area.start >= UInt64(LEGO_AGENT_BASE) && area.start < agentEnd { continue }
                if area.inode == 0 {
                    try register(space, area, map)
                } else {
                    try replace(space, area, map, thread)
                }
            }
        } catch {
            throw .failed("\(error)")
        }
        let end = agentCall(space, SystemCall.brk, 0)
        space.breakEnd = end > 0 ? UInt64(end) : 0
    }

    private func findSystemCall(_ space: AddressSpace, _ area: ProcessFiles.MappedArea) {
        guard let agent = space.agent else { return }
        let bytes = [UInt8](unsafeUninitializedCapacity: Int(min(area.bytes, 64 << 10))) { buffer, count in
            count = max(0, pread(agent.programMemory.raw, buffer.baseAddress!, buffer.count, off_t(area.start)))
        }
        for index in bytes.indices.dropLast() where bytes[index] == 0x0f && bytes[index + 1] == 0x05 {
            space.systemCallInstruction = area.start + UInt64(index)
            return
        }
    }

    /// pagemap(5) words of an area, one per page.
    private func words(_ area: ProcessFiles.MappedArea, _ map: borrowing Descriptor) -> [UInt64] {
        let count = Int(area.bytes / Page.bytes)
        return [UInt64](unsafeUninitializedCapacity: count) { buffer, filled in
            var done = 0
            while done < count {
                let result = pread(
                    map.raw, buffer.baseAddress! + done, (count - done) * 8,
                    off_t(Page.number(area.start) * 8) + off_t(done * 8))
                if result <= 0 { break }
                done += result / 8
            }
            filled = done
        }
    }

    private static let isPresent: UInt64 = 1 << 63
    private static let isSwapped: UInt64 = 1 << 62
    private static let isFilePage: UInt64 = 1 << 61

    private func register(
        _ space: AddressSpace, _ area: ProcessFiles.MappedArea, _ map: borrowing Descriptor
    ) throws(KernelError) {
        let first = Page.number(area.start)
        _ = try checked("UFFDIO_REGISTER", lego_uffd_register(space.userfault.raw, area.start, area.bytes))
        space.regions.insert(Region(pages: first..<Page.number(area.end)))
        for (index, word) in words(area, map).enumerated() where word & (Self.isPresent | Self.isSwapped) != 0 {
            arrive(space, first + UInt64(index), writable: true)
        }
        counters.setResident(resident)
    }

    /// Puts anonymous memory in place of a private file mapping. Pages that the program has written keep what it wrote.
    private func replace(
        _ space: AddressSpace, _ area: ProcessFiles.MappedArea, _ map: borrowing Descriptor, _ thread: Int32
    ) throws(KernelError) {
        let name =
            "map_files/\(String(area.start, radix: 16))-\(String(area.end, radix: 16))"
        guard let file = try? ProcessFiles.open(thread, name), let agent = space.agent else { return }
        var status = stat()
        if fstat(file.raw, &status) < 0 || status.st_mode & S_IFMT != S_IFREG { return }
        let first = Page.number(area.start)
        var written: [(UInt64, [UInt8])] = []
        for (index, word) in words(area, map).enumerated() {
            if word & (Self.isPresent | Self.isSwapped) == 0 || word & Self.isFilePage != 0 { continue }
            let page = first + UInt64(index)
            let bytes = [UInt8](unsafeUninitializedCapacity: Int(Page.bytes)) { buffer, count in
                count = max(
                    0, pread(agent.programMemory.raw, buffer.baseAddress!, buffer.count, off_t(Page.address(page))))
            }
            if bytes.count != Int(Page.bytes) { throw KernelError("read of a program's page", EIO) }
            written.append((page, bytes))
        }
        let result = mapNamed(
            space, file, area.start, area.bytes, UInt64(area.protection), MAP_PRIVATE | MAP_FIXED, area.offset)
        if result != Int64(area.start) {
            throw KernelError("mmap in place of a file mapping", Int32(clamping: -result))
        }
        space.regions.insert(
            Region(pages: first..<Page.number(area.end), file: MappedFile(file), fileOffset: area.offset))
        _ = try checked("UFFDIO_REGISTER", lego_uffd_register(space.userfault.raw, area.start, area.bytes))
        for (page, bytes) in written {
            let copied = bytes.withUnsafeBytes {
                lego_uffd_copy(space.userfault.raw, Page.address(page), $0.baseAddress!, Page.bytes, 0)
            }
            if copied != Int64(Page.bytes) { throw KernelError("UFFDIO_COPY", Int32(clamping: -copied)) }
            arrive(space, page, writable: true)
        }
        counters.setResident(resident)
    }
}
