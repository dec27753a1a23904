import CAgent
import CLinux
import Glibc
import Kernel

/// Takes over what the kernel mapped when it loaded a program: from then on all of its private memory is anonymous,
/// registered, and in the tables.
extension MonitorCore {
    /// All threads of the new image are stopped: it has one. Where an agent was killed in the midst of it, the next one
    /// goes on.
    func takeOver(_ space: AddressSpace, _ thread: Int32) throws(Tracee.Failure) {
        do {
            let areas = try ProcessFiles.areas(thread)
            let map = try PageMap(of: thread)
            if let begun = space.replacement {
                let start = Page.address(begun.region.pages.lowerBound)
                // Still the file's: it is replaced below like the others.
                let area = areas.first { $0.start <= start && start < $0.end }
                if let area, !isFile(area, thread) { try finishReplacement(space, begun) }
                space.replacement = nil
            }
            let agentEnd = UInt64(LEGO_AGENT_BASE) + UInt64(LEGO_AGENT_SPAN)
            var former: (area: ProcessFiles.MappedArea, file: MappedFile)?
            for area in areas {
                if area.name == "[vdso]" { findSystemCall(space, area) }
                if area.name.hasPrefix("[v") || !area.isPrivate { continue }
                if area.start >= UInt64(LEGO_AGENT_BASE) && area.start < agentEnd { continue }
                if area.inode == 0 {
                    try register(space, area, map)
                } else {
                    // The parts of an executable file follow each other: it is opened once.
                    var file = former.flatMap { $0.area.hasFile(of: area) ? $0.file : nil }
                    if file == nil, let opened = Self.openMapped(area, thread) { file = MappedFile(opened) }
                    guard let file, Self.isRegular(file.descriptor) else { continue }
                    former = (area, file)
                    if leavesMapped(space, area, file) { continue }
                    try replace(space, area, map, file)
                }
            }
        } catch {
            throw .failed("\(error)")
        }
        let end = agentCall(space, SystemCall.brk, 0)
        if end < 0 { throw .failed("the agent does not say where the program break is") }
        space.breakEnd = UInt64(end)
        pinArguments(space, thread)
        space.isTakenOver = true
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

    /// Whether an area maps a regular file: not anonymous memory, nor the node that gives it a name.
    private func isFile(_ area: ProcessFiles.MappedArea, _ thread: Int32) -> Bool {
        guard area.inode != 0, let file = Self.openMapped(area, thread) else { return false }
        return Self.isRegular(file)
    }

    private static func isRegular(_ file: borrowing Descriptor) -> Bool {
        var status = stat()
        return fstat(file.raw, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
    }

    private static func openMapped(_ area: ProcessFiles.MappedArea, _ thread: Int32) -> Descriptor? {
        try? ProcessFiles.open(
            thread, "map_files/\(String(area.start, radix: 16))-\(String(area.end, radix: 16))")
    }

    private func register(
        _ space: AddressSpace, _ area: ProcessFiles.MappedArea, _ map: borrowing PageMap
    ) throws(KernelError) {
        let first = Page.number(area.start)
        _ = try checked("UFFDIO_REGISTER", lego_uffd_register(space.userfault.raw, area.start, area.bytes))
        var next = first
        for known in space.regions.parts(in: first..<Page.number(area.end)) {
            space.regions.insert(Region(pages: next..<known.pages.lowerBound))
            next = known.pages.upperBound
        }
        space.regions.insert(Region(pages: next..<Page.number(area.end)))
        map.forEachThere(in: first..<Page.number(area.end)) { page, _ in arrive(space, page, writable: true) }
        noteResident()
    }

    /// Puts anonymous memory in place of a private file mapping. Pages that the program has written keep what it wrote.
    private func replace(
        _ space: AddressSpace, _ area: ProcessFiles.MappedArea, _ map: borrowing PageMap, _ mapped: MappedFile
    ) throws(KernelError) {
        guard let agent = space.agent else { return }
        let pages = Page.number(area.start)..<Page.number(area.end)
        let region = Region(pages: pages, file: mapped, fileOffset: area.offset)
        let replacement = Replacement(region: region, written: try Self.writtenPages(agent, map, pages))
        space.replacement = replacement
        let result = mapNamed(
            space, mapped.descriptor, area.start, area.bytes, UInt64(area.protection), MAP_PRIVATE | MAP_FIXED,
            area.offset)
        if result != Int64(area.start) {
            throw KernelError("mmap in place of a file mapping", Int32(clamping: -result))
        }
        try finishReplacement(space, replacement)
        space.replacement = nil
    }

    /// The anonymous memory is there: it takes its place in the tables, and what the program has written returns.
    private func finishReplacement(_ space: AddressSpace, _ replacement: Replacement) throws(KernelError) {
        let pages = replacement.region.pages
        space.regions.insert(replacement.region)
        _ = try checked(
            "UFFDIO_REGISTER",
            lego_uffd_register(
                space.userfault.raw, Page.address(pages.lowerBound), UInt64(pages.count) * Page.bytes))
        for (page, bytes) in replacement.written { try restore(space, page, bytes) }
        noteResident()
    }

    /// What a process has written to a private mapping of a file: pages, and what they hold.
    static func writtenPages(
        _ agent: Agent, _ map: borrowing PageMap, _ pages: Range<UInt64>
    ) throws(KernelError) -> [(UInt64, [UInt8])] {
        var written: [(UInt64, [UInt8])] = []
        try map.forEachThere(in: pages) { (page, word) throws(KernelError) in
            if word.isFilePage { return }
            let bytes = [UInt8](unsafeUninitializedCapacity: Int(Page.bytes)) { buffer, count in
                count = max(
                    0, pread(agent.programMemory.raw, buffer.baseAddress!, buffer.count, off_t(Page.address(page))))
            }
            if bytes.count != Int(Page.bytes) { throw KernelError("read of a program's page", EIO) }
            written.append((page, bytes))
        }
        return written
    }

    /// Puts a page that the program has written into memory that is registered.
    func restore(_ space: AddressSpace, _ page: UInt64, _ bytes: [UInt8]) throws(KernelError) {
        let copied = bytes.withUnsafeBytes {
            lego_uffd_copy(space.userfault.raw, Page.address(page), $0.baseAddress!, Page.bytes, 0)
        }
        if copied != Int64(Page.bytes) { throw KernelError("UFFDIO_COPY", Int32(clamping: -copied)) }
        arrive(space, page, writable: true)
    }
}

/// A private file mapping that becomes anonymous memory, and pages of it that the program has written.
struct Replacement {
    let region: Region
    let written: [(UInt64, [UInt8])]
}
