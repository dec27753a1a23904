import CAgent
import CLinux
import Glibc
import Kernel

/// The trapped calls, one by one. What changes memory is carried out by the agent, so that the tables change together
/// with the address space; the caller waits meanwhile.
extension MonitorCore {
    func carryOut(_ space: AddressSpace, _ notification: lego_notification) -> Outcome {
        let a = notification.arguments
        switch notification.number {
        case SystemCall.brk: return .answer(setBreak(space, a.0))
        case SystemCall.mmap: return map(space, notification)
        case SystemCall.munmap: return .answer(unmap(space, a.0, a.1))
        case SystemCall.mremap: return .answer(remap(space, a))
        case SystemCall.madvise: return .answer(advise(space, a.0, a.1, UInt32(truncatingIfNeeded: a.2)))
        case SystemCall.clone:
            return clone(space, notification.thread, flags: a.0, clearedThreadID: a.3)
        case SystemCall.clone3: return clone3(space, notification.thread, a.0, a.1)
        case SystemCall.fork: return clone(space, notification.thread, flags: 0, clearedThreadID: 0)
        case SystemCall.vfork:
            let flags = CloneFlag.sharedMemory | CloneFlag.vfork
            return clone(space, notification.thread, flags: flags, clearedThreadID: 0)
        case SystemCall.setTidAddress:
            pin(space, a.0)
            return .proceed
        case SystemCall.schedSetAffinity, SystemCall.schedGetAffinity:
            endColocation()
            return .proceed
        case SystemCall.open, SystemCall.openat, SystemCall.openat2, SystemCall.openByHandle, SystemCall.fcntl,
            SystemCall.ioSetup, SystemCall.ioUringSetup, SystemCall.processVmWritev, SystemCall.socket:
            noteDeviceWrites(space, notification)
            return .proceed
        default: return .proceed
        }
    }

    private static let agentPages = Page.range(UInt64(LEGO_AGENT_BASE), UInt64(LEGO_AGENT_SPAN))

    private func touchesAgent(_ start: UInt64, _ bytes: UInt64) -> Bool {
        Page.range(start & ~4095, bytes &+ (start & 4095)).overlaps(Self.agentPages)
    }

    @inline(__always) private func isError(_ result: Int64) -> Bool { result < 0 && result > -4096 }

    /// Private memory has appeared at `pages`, in place of whatever was there.
    private func appeared(_ space: AddressSpace, _ region: Region) -> Bool {
        forgetPages(space, region.pages)
        space.regions.insert(region)
        let result = lego_uffd_register(
            space.userfault.raw, Page.address(region.pages.lowerBound), UInt64(region.pages.count) * Page.bytes)
        return result == 0
    }

    private func disappeared(_ space: AddressSpace, _ pages: Range<UInt64>) {
        forgetPages(space, pages)
        space.regions.remove(pages)
    }

    private func setBreak(_ space: AddressSpace, _ wanted: UInt64) -> Int64 {
        if wanted < space.breakEnd { awaitAhead(of: space) }
        let result = agentCall(space, SystemCall.brk, wanted)
        if isError(result) { return Int64(bitPattern: space.breakEnd) }
        let end = UInt64(bitPattern: result)
        let old = Page.roundUp(space.breakEnd)
        let new = Page.roundUp(end)
        if space.breakEnd != 0 && new > old {
            // Failing to register leaves memory that is not bounded, but right.
            _ = appeared(space, Region(pages: Page.number(old)..<Page.number(new)))
        } else if new < old {
            disappeared(space, Page.number(new)..<Page.number(old))
        }
        space.breakEnd = end
        return result
    }

    private func map(_ space: AddressSpace, _ notification: lego_notification) -> Outcome {
        let a = notification.arguments
        let flags = Int32(truncatingIfNeeded: a.3)
        let pages = Page.range(a.0, a.1)
        if flags & MAP_FIXED != 0 { awaitAhead(of: space) }
        if flags & MAP_FIXED != 0 && touchesAgent(a.0, a.1) { return .answer(-Int64(ENOMEM)) }
        let isShared = flags & 0xf != MAP_PRIVATE
        if isShared || flags & (MAP_HUGETLB | MAP_GROWSDOWN) != 0 { return mapNatively(space, flags, pages) }
        var file: MappedFile?
        if flags & MAP_ANONYMOUS == 0 {
            if a.5 & 4095 != 0 { return .answer(-Int64(EINVAL)) }
            guard let descriptor = descriptor(space, notification, Int32(truncatingIfNeeded: a.4)) else {
                return .answer(-Int64(EBADF))
            }
            switch classify(descriptor.raw, protection: Int32(truncatingIfNeeded: a.2)) {
            case .regular: file = MappedFile(descriptor)
            case .refused(let number): return .answer(-Int64(number))
            case .other: return mapNatively(space, flags, pages)
            }
        }
        let result = agentCall(
            space, SystemCall.mmap, a.0, a.1, a.2,
            UInt64((flags & ~(MAP_POPULATE | MAP_LOCKED)) | MAP_ANONYMOUS | MAP_NORESERVE), UInt64(bitPattern: -1), 0)
        if isError(result) { return .answer(result) }
        let region = Region(pages: Page.range(UInt64(bitPattern: result), a.1), file: file, fileOffset: a.5)
        if !appeared(space, region) {
            _ = agentCall(space, SystemCall.munmap, UInt64(bitPattern: result), a.1)
            disappeared(space, region.pages)
            return .answer(-Int64(ENOMEM))
        }
        return .answer(result)
    }

    /// Shared mappings, huge pages and stacks that grow are the kernel's; what they replace is gone.
    private func mapNatively(_ space: AddressSpace, _ flags: Int32, _ pages: Range<UInt64>) -> Outcome {
        if flags & MAP_FIXED != 0 { disappeared(space, pages) }
        return .proceed
    }

    private enum FileKind {
        case regular
        /// A device or a kernel file: only the kernel knows what a mapping of it is.
        case other
        case refused(Int32)
    }

    // statfs(2) types of file systems whose regular files are not plain bytes.
    private static let kernelFileSystems: [UInt64] = [0x9fa0, 0x6265_6572, 0x9584_58f6, 0x6462_6720, 0x7472_6163]

    private func classify(_ descriptor: Int32, protection: Int32) -> FileKind {
        let mode = fcntl(descriptor, F_GETFL)
        if mode < 0 || mode & 0o10000000 != 0 { return .refused(EBADF) }
        if mode & O_ACCMODE == O_WRONLY { return .refused(EACCES) }
        var status = stat()
        if fstat(descriptor, &status) < 0 { return .refused(EBADF) }
        if status.st_mode & S_IFMT == S_IFDIR { return .refused(ENODEV) }
        if status.st_mode & S_IFMT != S_IFREG { return .other }
        var magic: UInt64 = 0
        var mountFlags: UInt64 = 0
        if lego_file_system(descriptor, &magic, &mountFlags) < 0 { return .other }
        if Self.kernelFileSystems.contains(magic) { return .other }
        if protection & PROT_EXEC != 0 && mountFlags & 8 /* ST_NOEXEC */ != 0 { return .refused(EPERM) }
        return .regular
    }

    private func unmap(_ space: AddressSpace, _ start: UInt64, _ bytes: UInt64) -> Int64 {
        if touchesAgent(start, bytes) { return -Int64(EINVAL) }
        awaitAhead(of: space)
        let result = agentCall(space, SystemCall.munmap, start, bytes)
        if result == 0 { disappeared(space, Page.range(start, bytes)) }
        return result
    }

    private func remap(_ space: AddressSpace, _ a: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64)) -> Int64 {
        let (old, oldBytes, newBytes, flags) = (a.0, a.1, a.2, a.3)
        let isFixed = flags & RemapFlag.fixed != 0
        if touchesAgent(old, oldBytes) || isFixed && touchesAgent(a.4, newBytes) { return -Int64(EINVAL) }
        awaitAhead(of: space)
        let source = Page.range(old, oldBytes)
        let isPrivate = space.regions.overlaps(source)
        if isFixed && !isPrivate { disappeared(space, Page.range(a.4, newBytes)) }
        let last = isPrivate ? space.regions.parts(in: source).last : nil
        let result = agentCall(space, SystemCall.mremap, old, oldBytes, newBytes, flags, a.4, expectsEvents: true)
        if isError(result) || !isPrivate { return result }
        let new = UInt64(bitPattern: result)
        if new == old && newBytes < oldBytes {
            disappeared(
                space, Page.range(old, oldBytes).clamped(to: Page.range(new, newBytes).upperBound..<Page.count_max))
        } else if new != old {
            // The event has moved what was there; the rest of the old range is unmapped, unless it was asked to stay.
            if flags & RemapFlag.keepsOld == 0 { disappeared(space, source) }
            let kept = Page.range(new, newBytes)
            let moved = Page.range(new, oldBytes)
            if moved.upperBound > kept.upperBound { disappeared(space, kept.upperBound..<moved.upperBound) }
        }
        if Page.roundUp(newBytes) > Page.roundUp(oldBytes), let last {
            grew(space, last, from: Page.range(new, oldBytes).upperBound, to: Page.range(new, newBytes).upperBound)
        }
        return result
    }

    /// A region was made longer: its new end holds what the mapping it belongs to would.
    private func grew(_ space: AddressSpace, _ last: Region, from: UInt64, to: UInt64) {
        var tail = last
        tail.fileOffset += UInt64(last.pages.count) * Page.bytes
        tail.pages = from..<to
        _ = appeared(space, tail)
    }

    private func advise(_ space: AddressSpace, _ start: UInt64, _ bytes: UInt64, _ advice: UInt32) -> Int64 {
        if touchesAgent(start, bytes) { return -Int64(EINVAL) }
        // Merged and huge pages could not be moved out again; both are only hints.
        if advice == Advice.mergeable { return 0 }
        if advice == Advice.collapse { return -Int64(EINVAL) }
        awaitAhead(of: space)
        let effective = advice == Advice.free ? Advice.dontNeed : advice
        let result = agentCall(space, SystemCall.madvise, start, bytes, UInt64(effective))
        let pages = Page.range(start, bytes)
        switch effective {
        case Advice.wipeOnFork, Advice.keepOnFork:
            if result != 0 { return result }
            for var part in space.regions.parts(in: pages) {
                part.isWipedOnFork = effective == Advice.wipeOnFork
                space.regions.insert(part)
            }
        case Advice.dontNeed where result != 0:
            // A part of the range may have been dropped before the error; what is still there stays right.
            forgetDropped(space, pages)
        default:
            if result == 0 { forgetUnpinned(space, pages) }
        }
        return result
    }

    /// The program dropped its pages. A pinned one is gone too, and comes back at once.
    private func forgetUnpinned(_ space: AddressSpace, _ pages: Range<UInt64>) {
        var pinned: [UInt64] = []
        space.table.forEach(in: pages) { page, entry in if entry.pointee.isPinned { pinned.append(page) } }
        forgetPages(space, pages)
        for page in pinned { pin(space, Page.address(page)) }
    }

    /// After a failed MADV_DONTNEED: forgets the pages that the kernel has dropped.
    private func forgetDropped(_ space: AddressSpace, _ pages: Range<UInt64>) {
        guard let agent = space.agent, let map = try? ProcessFiles.open(agent.process, "pagemap") else { return }
        var dropped: [UInt64] = []
        space.table.forEach(in: pages) { page, entry in
            var word: UInt64 = 0
            if !entry.pointee.isResident || pread(map.raw, &word, 8, off_t(page * 8)) != 8 { return }
            if word >> 62 == 0 { dropped.append(page) }
        }
        for page in dropped { forgetPages(space, page..<page + 1) }
    }

    /// A call from which on pages of the program may be pinned, for a device or another thread of the kernel that
    /// writes to them whether they are mapped or not. The filter lets only such calls through to here, but for
    /// openat2(2), whose flags it cannot see.
    private func noteDeviceWrites(_ space: AddressSpace, _ notification: lego_notification) {
        if mayBePinned { return }
        if notification.number == SystemCall.openat2 {
            var flags: UInt64 = 0
            let isRead = withUnsafeMutableBytes(of: &flags) { readProgram(space, notification.arguments.2, into: $0) }
            if !isRead || flags & UInt64(SystemCallFilter.directFlag) == 0 { return }
        }
        awaitAhead()
        mayBePinned = true
        logger.debug(
            "pages may be pinned from now on", metadata: ["program": "\(program)", "call": "\(notification.number)"])
    }

    // MARK: New threads and processes

    private func clone3(_ space: AddressSpace, _ thread: Int32, _ address: UInt64, _ bytes: UInt64) -> Outcome {
        // struct clone_args: flags, pidfd, child_tid, ...
        var words: (UInt64, UInt64, UInt64) = (0, 0, 0)
        if bytes >= 64 {
            _ = withUnsafeMutableBytes(of: &words) { readProgram(space, address, into: $0) }
        }
        return clone(space, thread, flags: words.0, clearedThreadID: words.2)
    }

    private func clone(
        _ space: AddressSpace, _ thread: Int32, flags: UInt64, clearedThreadID: UInt64
    ) -> Outcome {
        // A child inherits the processors of its parent.
        endColocation()
        if flags & CloneFlag.clearThreadID != 0 && flags & CloneFlag.sharedMemory != 0 { pin(space, clearedThreadID) }
        if flags & CloneFlag.sharedMemory == 0 { makeRoomForFork(space, thread: thread) }
        return .proceed
    }

    /// Makes a page resident and writable, and keeps it so: the kernel writes there at the end of a thread, when it
    /// serves no faults any more.
    func pin(_ space: AddressSpace, _ address: UInt64) {
        awaitAhead(of: space)
        let page = Page.number(address)
        if address == 0 || page >= Page.count_max || !space.regions.overlaps(page..<page + 1) { return }
        let entry = space.table.entry(page)
        if !entry.pointee.isResident {
            makeRoom(1)
            if space.isDead { return }
            let source =
                entry.pointee.isUntouched && space.regions.index(of: page) == nil ? zeros : absentPage(space, page)
            guard let source else { return checkStore() }
            if copyNow(space, page, source) { arrive(space, page, writable: true) }
        } else if !entry.pointee.isDirty {
            unprotectNow(space, page)
            entry.pointee.set(PageEntry.dirty)
        }
        if entry.pointee.isResident { entry.pointee.set(PageEntry.pinned) }
        counters.setResident(resident)
    }

    /// Copies a page in, reading the events that stand in its way. At most some rounds: a fork under way ends by
    /// itself.
    private func copyNow(_ space: AddressSpace, _ page: UInt64, _ source: UnsafeMutableRawPointer) -> Bool {
        let deadline = Deadline.after(.seconds(2))
        while true {
            let result = lego_uffd_copy(space.userfault.raw, Page.address(page), source, Page.bytes, 0)
            if result != -Int64(EAGAIN) || deadline.hasPassed { return result > 0 || result == -Int64(EEXIST) }
            waitForEvents(space)
        }
    }

    private func unprotectNow(_ space: AddressSpace, _ page: UInt64) {
        let deadline = Deadline.after(.seconds(2))
        while lego_uffd_write_protect(space.userfault.raw, Page.address(page), Page.bytes, 0) == -EAGAIN,
            !deadline.hasPassed
        { waitForEvents(space) }
    }

    /// Waits a millisecond at most for something to read from the address space's userfaultfd, and reads it.
    func waitForEvents(_ space: AddressSpace) {
        var watched = pollfd(fd: space.userfault.raw, events: Int16(POLLIN), revents: 0)
        _ = poll(&watched, 1, 1)
        serveEventsOnly(space)
    }
}

/// clone(2) flags.
private enum CloneFlag {
    static let sharedMemory: UInt64 = 0x100
    static let vfork: UInt64 = 0x4000
    static let clearThreadID: UInt64 = 0x20_0000
}

/// mremap(2) flags.
private enum RemapFlag {
    static let fixed: UInt64 = 2
    static let keepsOld: UInt64 = 4
}
