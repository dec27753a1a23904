import CAgent
import CLinux
import Glibc
import Kernel

/// The trapped calls, and those that map and unmap. What changes memory is carried out by the agent, so that the tables
/// change together with the address space; the caller waits meanwhile.
extension MonitorCore {
    func carryOut(_ space: AddressSpace, _ notification: lego_notification) -> Outcome {
        let a = notification.arguments
        switch notification.number {
        case SystemCall.brk: return .answer(setBreak(space, notification))
        case SystemCall.mmap: return map(space, notification)
        case SystemCall.munmap: return unmap(space, a.0, a.1)
        case SystemCall.mprotect, SystemCall.pkeyMprotect:
            watchFiles(space, Page.range(a.0, a.1))
            return .proceed
        case SystemCall.mremap: return remap(space, notification)
        case SystemCall.madvise: return advise(space, Page.range(a.0, a.1), a.0, a.1, UInt32(truncatingIfNeeded: a.2))
        case SystemCall.processMadvise: return adviseVector(space, notification)
        case SystemCall.mlockall:
            lockAll(space, isFuture: a.0 & LockFlag.future != 0)
            return .proceed
        case SystemCall.munlockall:
            unlockAll(space)
            return .proceed
        case SystemCall.shmat: return attachShared(space, notification)
        case SystemCall.setrlimit:
            noteLimit(a.0)
            return .proceed
        case SystemCall.prlimit64:
            noteLimit(a.1)
            return .proceed
        case SystemCall.ioctl: return registerFaults(space, notification)
        case SystemCall.ptrace: return trace(space, notification)
        case SystemCall.processMrelease:
            letGo(space, notification)
            return .proceed
        case SystemCall.setns:
            joinNamespaces(space, notification)
            return .proceed
        case SystemCall.exit:
            releaseWords(space, notification.thread)
            pinRobustList(space, notification.thread)
            return .proceed
        case SystemCall.futex:
            holdWords(space, notification)
            return .proceed
        case SystemCall.setRobustList:
            pinRobustHead(space, a.0)
            return .proceed
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
        case SystemCall.schedSetAffinity:
            endColocation()
            return setAffinity(space, notification)
        case SystemCall.schedGetAffinity:
            endColocation()
            return .proceed
        case SystemCall.sysinfo: return systemInformation(space, a.0)
        case SystemCall.getdents64: return listDirectory(space, notification)
        case SystemCall.open, SystemCall.openat, SystemCall.openat2, SystemCall.openByHandle, SystemCall.fcntl,
            SystemCall.ioSetup, SystemCall.ioUringSetup, SystemCall.processVmWritev, SystemCall.socket:
            noteDeviceWrites(space, notification)
            return .proceed
        default: return .proceed
        }
    }

    private static let agentPages = Page.range(UInt64(LEGO_AGENT_BASE), UInt64(LEGO_AGENT_SPAN))

    func touchesAgent(_ start: UInt64, _ bytes: UInt64) -> Bool {
        Page.range(start & ~4095, bytes &+ (start & 4095)).overlaps(Self.agentPages)
    }

    @inline(__always) func isError(_ result: Int64) -> Bool { result < 0 && result > -4096 }

    /// Private memory has appeared at `pages`, in place of whatever was there. What is `isFresh`, so that the kernel has not
    /// registered it with what it is a part of, may be left unwatched.
    private func appeared(_ space: AddressSpace, _ region: Region, isFresh: Bool = false) -> Bool {
        forgetPages(space, region.pages)
        var region = region
        if isFresh && region.file == nil { region.isUnwatched = leavesUnwatched(space, region.pages.count) }
        space.regions.insert(region)
        countUnwatched(space)
        if region.isUnwatched { return true }
        let result = lego_uffd_register(
            space.userfault.raw, Page.address(region.pages.lowerBound), UInt64(region.pages.count) * Page.bytes)
        return result == 0
    }

    func disappeared(_ space: AddressSpace, _ pages: Range<UInt64>) {
        forgetPages(space, pages)
        space.regions.remove(pages)
        countUnwatched(space)
    }

    private func setBreak(_ space: AddressSpace, _ notification: lego_notification) -> Int64 {
        let wanted = notification.arguments.0
        if wanted < space.breakEnd { awaitAhead(of: space) }
        lendLimits(space, notification.thread)
        let result = agentCall(space, SystemCall.brk, wanted)
        if isError(result) { return Int64(bitPattern: space.breakEnd) }
        let end = UInt64(bitPattern: result)
        let old = Page.roundUp(space.breakEnd)
        let new = Page.roundUp(end)
        if space.breakEnd != 0 && new > old {
            // Failing to register leaves memory that is not bounded, but right.
            let pages = Page.number(old)..<Page.number(new)
            _ = appeared(space, Region(pages: pages), isFresh: true)
            // The kernel has filled it already.
            if space.locksFuture { for page in pages { arrive(space, page, writable: true) } }
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
        lendLimits(space, notification.thread)
        let isShared = flags & 0xf != MAP_PRIVATE
        if isShared || flags & (MAP_HUGETLB | MAP_GROWSDOWN) != 0 { return mapNatively(space, notification, pages) }
        var file: MappedFile?
        if flags & MAP_ANONYMOUS == 0 {
            if a.5 & 4095 != 0 { return .answer(-Int64(EINVAL)) }
            guard let descriptor = descriptor(space, notification, Int32(truncatingIfNeeded: a.4)) else {
                return .answer(-Int64(EBADF))
            }
            switch classify(descriptor.raw, protection: Int32(truncatingIfNeeded: a.2)) {
            case .regular: file = MappedFile(descriptor)
            case .refused(let number): return .answer(-Int64(number))
            case .other: return mapNatively(space, notification, pages)
            }
        }
        let isLocked = space.locksFuture || flags & MAP_LOCKED != 0
        // Where it cannot be written to.
        if let file, !isLocked, flags & MAP_POPULATE == 0, a.2 & UInt64(PROT_WRITE) == 0,
            let result = mapFile(space, notification)
        {
            if isError(result) { return .answer(result) }
            let pages = Page.range(UInt64(bitPattern: result), a.1)
            _ = appeared(space, Region(pages: pages, file: file, fileOffset: a.5, isUnwatched: true))
            space.hasWatchableFiles = true
            return .answer(result)
        }
        // What is to be locked shall not be filled by the kernel before it is registered: it is made inaccessible first.
        let protection = space.locksFuture ? UInt64(PROT_NONE) : a.2
        let result =
            if let file {
                mapNamed(space, file.descriptor, a.0, a.1, protection, flags, a.5)
            } else {
                agentCall(
                    space, SystemCall.mmap, a.0, a.1, protection,
                    UInt64((flags & ~(MAP_POPULATE | MAP_LOCKED)) | MAP_ANONYMOUS | MAP_NORESERVE),
                    UInt64(bitPattern: -1), 0)
            }
        if isError(result) { return .answer(result) }
        let start = UInt64(bitPattern: result)
        let region = Region(pages: Page.range(start, a.1), file: file, fileOffset: a.5)
        // What cannot be written to yet may never be: only addresses are reserved.
        let isFresh = !isLocked && flags & MAP_POPULATE == 0 && a.2 & UInt64(PROT_WRITE) != 0
        var problem: Int64 = appeared(space, region, isFresh: isFresh) ? 0 : -Int64(ENOMEM)
        let isAccessible = a.2 & UInt64(PROT_READ | PROT_WRITE | PROT_EXEC) != 0
        if problem == 0 && isAccessible && (isLocked || flags & MAP_POPULATE != 0) {
            populate(space, region.pages, isLocked: isLocked)
        }
        if problem == 0 && space.locksFuture {
            problem = agentCall(space, SystemCall.mprotect, start, a.1, a.2)
        } else if problem == 0 && isLocked && agentCall(space, SystemCall.mlock, start, a.1) != 0 {
            problem = -Int64(EAGAIN)
        }
        if problem != 0 {
            _ = agentCall(space, SystemCall.munmap, start, a.1)
            disappeared(space, region.pages)
        }
        return .answer(problem == 0 ? result : problem)
    }

    /// Makes new memory resident at once. What is more than half of what the program may hold is so only if it is locked:
    /// it would push itself out.
    private func populate(_ space: AddressSpace, _ pages: Range<UInt64>, isLocked: Bool) {
        if !isLocked && pages.count > limitPages / 2 { return }
        for page in pages where !hasFailed && !space.isDead { bringNow(space, page) }
        noteResident()
    }

    /// Shared mappings, huge pages and stacks that grow are the kernel's. Where one replaces private memory, the agent
    /// makes it, with a duplicate of the descriptor: only when that has succeeded is what was there gone.
    private func mapNatively(
        _ space: AddressSpace, _ notification: lego_notification, _ pages: Range<UInt64>
    ) -> Outcome {
        let a = notification.arguments
        let flags = Int32(truncatingIfNeeded: a.3)
        if flags & MAP_FIXED == 0 || !space.regions.overlaps(pages) { return .proceed }
        var file = Int64(-1)
        if flags & MAP_ANONYMOUS == 0 {
            file = borrow(space, notification, Int32(truncatingIfNeeded: a.4))
            if file < 0 { return .answer(file) }
        }
        let result = agentCall(space, SystemCall.mmap, a.0, a.1, a.2, a.3, UInt64(bitPattern: file), a.5)
        if file >= 0 { _ = agentCall(space, SystemCall.close, UInt64(file)) }
        if !isError(result) { disappeared(space, pages) }
        return .answer(result)
    }

    /// Has the agent duplicate one of the caller's descriptors; answers its number there.
    private func borrow(_ space: AddressSpace, _ notification: lego_notification, _ number: Int32) -> Int64 {
        if descriptor(space, notification, number) == nil { return -Int64(EBADF) }
        let process = ProcessFiles.process(ofThread: notification.thread)
        guard let inner = ProcessFiles.innermostNumber(process) else { return -Int64(EBADF) }
        let handle = agentCall(space, SystemCall.pidfdOpen, UInt64(inner))
        if handle < 0 { return handle }
        let copy = agentCall(space, SystemCall.pidfdGetfd, UInt64(handle), UInt64(UInt32(bitPattern: number)))
        _ = agentCall(space, SystemCall.close, UInt64(handle))
        return copy
    }

    /// shmat(2) with SHM_REMAP: a segment in place of whatever is there.
    private func attachShared(_ space: AddressSpace, _ notification: lego_notification) -> Outcome {
        let a = notification.arguments
        awaitAhead(of: space)
        let result = agentCall(space, SystemCall.shmat, a.0, a.1, a.2)
        if !isError(result), let agent = space.agent, let areas = try? ProcessFiles.areas(agent.process) {
            for area in areas where area.start == UInt64(bitPattern: result) {
                disappeared(space, Page.range(area.start, area.bytes))
            }
        }
        return .answer(result)
    }

    private enum FileKind {
        case regular
        /// A device or a kernel file: only the kernel knows what a mapping of it is.
        case other
        case refused(Int32)
    }

    // statfs(2) types of file systems whose regular files are not plain bytes.
    private static let kernelFileSystems: [UInt64] = [
        0x9fa0, 0x6265_6572, 0x9584_58f6, 0x6462_6720, 0x7472_6163, 0x5345_434d,
    ]

    private func classify(_ descriptor: Int32, protection: Int32) -> FileKind {
        let mode = fcntl(descriptor, F_GETFL)
        if mode < 0 || mode & 0o10000000 != 0 { return .refused(EBADF) }
        if mode & O_ACCMODE == O_WRONLY { return .refused(EACCES) }
        // Whoever can write the file may expect to see there what it writes later.
        if mode & O_ACCMODE == O_RDWR { return .other }
        var status = stat()
        if fstat(descriptor, &status) < 0 { return .refused(EBADF) }
        if status.st_mode & S_IFMT == S_IFDIR { return .refused(ENODEV) }
        if status.st_mode & S_IFMT != S_IFREG { return .other }
        guard let system = fileSystem(descriptor, withFlags: protection & PROT_EXEC != 0) else { return .other }
        if Self.kernelFileSystems.contains(system.magic) { return .other }
        if protection & PROT_EXEC != 0 && system.flags & 8 /* ST_NOEXEC */ != 0 { return .refused(EPERM) }
        return .regular
    }

    /// The kind of the file system that a file lies on, and where they are wanted the flags of its mount, which may change.
    /// The kind of a mount does not, and to ask for it costs a round trip to the storage component.
    private func fileSystem(_ descriptor: Int32, withFlags: Bool) -> (magic: UInt64, flags: UInt64)? {
        var mount: UInt64 = 0
        let isNumbered = lego_file_mount(descriptor, &mount) == 0
        if isNumbered, !withFlags, let magic = fileSystems[mount] { return (magic, 0) }
        var (magic, flags): (UInt64, UInt64) = (0, 0)
        if lego_file_system(descriptor, &magic, &flags) < 0 { return nil }
        if isNumbered {
            if fileSystems.count >= Self.fileSystems_max { fileSystems = [:] }
            fileSystems[mount] = magic
        }
        return (magic, flags)
    }

    private func unmap(_ space: AddressSpace, _ start: UInt64, _ bytes: UInt64) -> Outcome {
        if touchesAgent(start, bytes) { return .answer(-Int64(EINVAL)) }
        let pages = Page.range(start, bytes)
        // Memory that is the kernel's: nothing changes here, and a userfaultfd of the program's own may have to be read.
        if !pages.isEmpty && !space.regions.overlaps(pages) { return .proceed }
        awaitAhead(of: space)
        let result = agentCall(space, SystemCall.munmap, start, bytes)
        if result == 0 { disappeared(space, pages) }
        return .answer(result)
    }

    private func remap(_ space: AddressSpace, _ notification: lego_notification) -> Outcome {
        let a = notification.arguments
        let isFixed = a.3 & RemapFlag.fixed != 0
        if touchesAgent(a.0, a.1) || isFixed && touchesAgent(a.4, a.2) { return .answer(-Int64(EINVAL)) }
        let target = isFixed ? Page.range(a.4, a.2) : 0..<0
        if !space.regions.overlaps(Page.range(a.0, a.1)) && !space.regions.overlaps(target) { return .proceed }
        lendLimits(space, notification.thread)
        return .answer(remap(space, a, target))
    }

    private func remap(
        _ space: AddressSpace, _ a: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64), _ target: Range<UInt64>
    ) -> Int64 {
        let (old, oldBytes, newBytes, flags) = (a.0, a.1, a.2, a.3)
        awaitAhead(of: space)
        let source = Page.range(old, oldBytes)
        // The kernel tells of what moves only where it is watched.
        watch(space, source)
        watchFiles(space, source)
        let parts = space.regions.parts(in: source)
        let isPrivate = !parts.isEmpty
        let last = parts.last
        let result = agentCall(space, SystemCall.mremap, old, oldBytes, newBytes, flags, a.4, expectsEvents: true)
        if isError(result) { return result }
        if !isPrivate {
            disappeared(space, target)
            return result
        }
        let new = UInt64(bitPattern: result)
        if new == old && newBytes < oldBytes {
            disappeared(
                space, Page.range(old, oldBytes).clamped(to: Page.range(new, newBytes).upperBound..<Page.count_max))
        } else if new != old {
            // The event has moved what was there; the rest of the old range is unmapped, unless it was asked to stay.
            if flags & RemapFlag.keepsOld == 0 {
                disappeared(space, source)
            } else {
                for part in parts { space.regions.insert(part) }
            }
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
}
