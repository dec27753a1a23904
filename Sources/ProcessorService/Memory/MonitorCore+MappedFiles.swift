import CAgent
import CLinux
import Glibc
import Kernel

/// Private mappings of files that the kernel fills by itself, from its page cache and without a fault for the monitor:
/// those that cannot be written to, program text above all, while there is room in the ExCache for all of them. They
/// count as resident as a whole, like fresh memory that is not watched (`MonitorCore+Unwatched.swift`). When the room is
/// needed, or before they can be written to, watched memory takes their place.
extension MonitorCore {
    /// Maps a file for a caller as it asks for it, its place in the ExCache reserved. nil where the mapping is to be
    /// watched from the start.
    func mapFile(_ space: AddressSpace, _ notification: lego_notification) -> Int64? {
        let a = notification.arguments
        guard let place = placeForFile(space, a.0, a.1, Int32(truncatingIfNeeded: a.3)),
            leavesUnwatched(space, Page.range(0, a.1).count),
            let caller = threads.process(of: notification.thread, in: space.identity),
            let index = space.users.firstIndex(where: { $0.process == caller })
        else { return nil }
        if space.users[index].innerNumber == 0 {
            space.users[index].innerNumber = ProcessFiles.innermostNumber(caller) ?? 0
        }
        let result = agentCall(
            space, UInt32(bitPattern: space.users[index].innerNumber), place, a.1, a.2, a.3, a.4, a.5,
            as: LEGO_AGENT_MAP_FILE)
        // The agent may not have the descriptor, which is good.
        if result == -Int64(EBADF) { return nil }
        if !isError(result), !MappedFile.mayBeMapped(Page.range(UInt64(bitPattern: result), a.1)) {
            // The place was taken. Nobody knows of this one yet.
            _ = agentCall(space, SystemCall.munmap, UInt64(bitPattern: result), a.1)
            return nil
        }
        return result
    }

    /// Where a file is to be mapped: below the one before, as the kernel does; where the caller wants it, if that is a
    /// place for files; nil where it is not.
    private func placeForFile(_ space: AddressSpace, _ wanted: UInt64, _ bytes: UInt64, _ flags: Int32) -> UInt64? {
        let length = Page.roundUp(bytes)
        if length == 0 || length >= 1 << 32 || flags & MAP_32BIT != 0 { return nil }
        if wanted != 0 || flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
            return MappedFile.mayBeMapped(Page.range(wanted, bytes)) ? wanted : nil
        }
        if space.filePlace == 0 || space.filePlace - length < MappedFile.window.lowerBound {
            space.filePlace = firstFilePlace(space)
        }
        space.filePlace -= length
        return space.filePlace
    }

    /// As random as the kernel's own choice for the program, and as fixed where the program wants that (personality(2)):
    /// the vDSO's place decides it.
    private func firstFilePlace(_ space: AddressSpace) -> UInt64 {
        let quarter = UInt64(MappedFile.window.count) / 4
        let random = Page.address(Page.number(space.systemCallInstruction) &* 0x9e37_79b1)
        return MappedFile.window.upperBound - random % quarter
    }

    /// Whether what the kernel mapped at exec stays as it is; notes it.
    func leavesMapped(_ space: AddressSpace, _ area: ProcessFiles.MappedArea, _ file: MappedFile) -> Bool {
        let pages = Page.range(area.start, area.bytes)
        if area.protection & PROT_WRITE != 0 || !MappedFile.mayBeMapped(pages) { return false }
        if !leavesUnwatched(space, pages.count) { return false }
        space.regions.insert(Region(pages: pages, file: file, fileOffset: area.offset, isUnwatched: true))
        space.hasWatchableFiles = true
        countUnwatched(space)
        noteResident()
        return true
    }

    /// Watches the mappings of files that overlap `pages`, whole regions of them, if there is an agent to do it.
    func watchFiles(_ space: AddressSpace, _ pages: Range<UInt64>) {
        guard space.hasWatchableFiles, !space.isInjecting, !isAgentBusy, let agent = space.agent else { return }
        let mapped = space.regions.regions.filter(\.isMappedFile)
        let regions = mapped.filter { $0.pages.overlaps(pages) }
        // All are tried now.
        if regions.count == mapped.count { space.hasWatchableFiles = false }
        if regions.isEmpty { return }
        awaitAhead(of: space)
        do throws(KernelError) {
            // What takes their place would not be locked.
            if ProcessFiles.statusField(agent.process, "VmLck").map({ !$0.hasPrefix("0 ") }) ?? true {
                throw KernelError("memory is locked", EAGAIN)
            }
            let areas = try ProcessFiles.areas(agent.process)
            let map = try PageMap(of: agent.process)
            for area in areas where area.isPrivate && area.inode != 0 {
                let there = Page.range(area.start, area.bytes)
                for region in regions where region.pages.overlaps(there) {
                    // One that cannot be watched does not keep the others.
                    do throws(KernelError) {
                        try watchFile(space, region.clipped(to: there), area, map)
                    } catch {
                        if space.agent !== agent { throw error }
                        noteKept(error)
                    }
                }
            }
        } catch {
            noteKept(error)
            // The next agent may.
            if space.agent == nil { space.hasWatchableFiles = true }
        }
        countUnwatched(space)
        noteResident()
    }

    private func noteKept(_ error: KernelError) {
        logger.debug("mapped files stay the kernel's", metadata: ["program": "\(program)", "error": "\(error)"])
    }

    /// Puts watched memory in the place of a part of an area. It is made elsewhere, with what the program may have
    /// written all the same (a debugger does), and moved there: no thread sees anything in between, and an agent that is
    /// killed meanwhile leaves all as it was.
    private func watchFile(
        _ space: AddressSpace, _ region: Region, _ area: ProcessFiles.MappedArea, _ map: borrowing PageMap
    ) throws(KernelError) {
        guard let agent = space.agent, let file = region.file else { throw KernelError("agent", ESRCH) }
        let start = Page.address(region.pages.lowerBound)
        let bytes = UInt64(region.pages.count) * Page.bytes
        var status = stat()
        // The caller may have exchanged its descriptor while it was mapped.
        guard area.protection & PROT_WRITE == 0, area.offset + (start - area.start) == region.fileOffset,
            fstat(file.descriptor.raw, &status) == 0, status.st_ino == area.inode
        else { throw KernelError("mapping of a file is another one", EINVAL) }
        let written = try Self.writtenPages(agent, map, region.pages)
        let place = mapNamed(
            space, file.descriptor, 0, bytes, UInt64(area.protection), MAP_PRIVATE, region.fileOffset)
        if isError(place) { throw KernelError("mmap beside a file mapping", Int32(clamping: -place)) }
        let made = Page.range(UInt64(bitPattern: place), bytes)
        do throws(KernelError) {
            let result = lego_uffd_register(space.userfault.raw, UInt64(bitPattern: place), bytes)
            _ = try checked("UFFDIO_REGISTER", result)
            var watched = region
            watched.isUnwatched = false
            watched.pages = made
            space.regions.insert(watched)
            for (page, bytes) in written {
                try restore(space, made.lowerBound + (page - region.pages.lowerBound), bytes)
            }
            let moved = agentCall(
                space, SystemCall.mremap, UInt64(bitPattern: place), bytes, bytes, RemapFlag.mayMove | RemapFlag.fixed,
                start, expectsEvents: true)
            if moved != Int64(bitPattern: start) { throw KernelError("mremap", Int32(clamping: -moved)) }
        } catch {
            _ = agentCall(space, SystemCall.munmap, UInt64(bitPattern: place), bytes)
            disappeared(space, made)
            throw error
        }
    }
}
