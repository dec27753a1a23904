import CAgent
import CLinux
import Glibc
import Kernel

/// Trapped system calls: who asks, and what becomes of it.
extension MonitorCore {
    /// Answers one notification, injecting an agent first where the caller's address space has none.
    func handle(_ notification: lego_notification) {
        if hasFailed { return }
        ProgramCounters.add(counters.trappedCalls)
        if isOfHandlers(notification) && carryOutHandlers(notification) { return }
        guard let space = identify(notification) else {
            if isNative(notification.thread) {
                return leaveToKernel(notification)
            }
            // The injection lets the call be made again.
            return inject(notification)
        }
        attach(space, thread: notification.thread)
        if space.isNative { return leaveToKernel(notification) }
        colocateCaller(space, notification.thread)
        let outcome = carryOut(space, notification)
        if hasFailed { return }
        switch outcome {
        case .answer(let value):
            if value == -Int64(ESRCH) && space.agent == nil && !space.isDead {
                // The program killed its agent: another one is injected, and the call made again.
                return inject(notification)
            }
            _ = lego_seccomp_answer(
                notification.listener, notification.id, value == -Int64(ESRCH) ? -Int64(ENOMEM) : value)
        case .exact(let value): _ = lego_seccomp_answer(notification.listener, notification.id, value)
        case .proceed:
            _ = lego_seccomp_continue(notification.listener, notification.id)
        }
    }

    /// The call of a process that has no agent.
    func leaveToKernel(_ notification: lego_notification) {
        if notification.number == SystemCall.schedSetAffinity && !processors.isEmpty {
            // Its mask cannot be read here, and the kernel would take any.
            _ = lego_seccomp_answer(notification.listener, notification.id, -Int64(EPERM))
        } else {
            _ = lego_seccomp_continue(notification.listener, notification.id)
        }
    }

    enum Outcome {
        /// The result, or a negative error number.
        case answer(Int64)
        /// The same, where ESRCH is not the agent's but the call's own.
        case exact(Int64)
        /// The kernel shall execute the call.
        case proceed
    }

    /// The address space of the caller, if it has an agent: read from the agent's page, which is shared memory and so
    /// never waits for a fault.
    private func identify(_ notification: lego_notification) -> AddressSpace? {
        guard let words = readAgentPage(notification.thread), words.nonce == nonce,
            let space = space(identity: words.identity), space.agent != nil, space.isTakenOver
        else { return nil }
        return space
    }

    /// The first words of the agent's page in a thread's memory; nil where there is none.
    func readAgentPage(_ thread: Int32) -> (nonce: UInt64, identity: UInt64)? {
        var words: (nonce: UInt64, identity: UInt64) = (0, 0)
        let count = lego_process_read(
            thread, UInt64(LEGO_AGENT_BASE) + UInt64(LEGO_AGENT_PAGE_OFFSET), &words, 16)
        return count == 16 ? words : nil
    }

    func space(identity: UInt64) -> AddressSpace? {
        space(slot: Int(identity & 0xffff_ffff), generation: UInt32(truncatingIfNeeded: identity >> 32))
    }

    /// Notes that a process runs in an address space, and no longer in the one where it was before its last exec.
    func attach(_ space: AddressSpace, thread: Int32) {
        if threads.process(of: thread, in: space.identity) != nil { return }
        let process = ProcessFiles.process(ofThread: thread)
        threads.remember(thread, process: process, in: space.identity)
        leaveOthers(process, except: space)
        if space.users.contains(where: { $0.process == process }) { return }
        let descriptor = lego_pidfd_open(process)
        if descriptor < 0 { return }
        space.users.append(AddressSpace.User(process: process, descriptor: descriptor))
        try? epoll.add(descriptor, token: Token.user(slot: space.slot, generation: space.generation).word)
    }

    /// A process runs in `space`, or in none that is known, and no longer where it was before.
    func leaveOthers(_ process: Int32, except space: AddressSpace?) {
        for other in spaces {
            guard let other, other !== space, let index = other.users.firstIndex(where: { $0.process == process })
            else {
                continue
            }
            try? epoll.remove(other.users[index].descriptor)
            _ = Descriptor(taking: other.users[index].descriptor)
            other.users.remove(at: index)
            abandonIfUnused(other)
        }
    }

    /// A duplicate of one of the caller's descriptors.
    func descriptor(_ space: AddressSpace, _ notification: lego_notification, _ number: Int32) -> Descriptor? {
        if let process = threads.process(of: notification.thread, in: space.identity),
            let user = space.users.first(where: { $0.process == process })
        {
            let copy = lego_pidfd_getfd(user.descriptor, number)
            if copy >= 0 { return Descriptor(taking: copy) }
        }
        // The process's first thread may have ended, or not share its descriptors: the thread's own table.
        return try? ProcessFiles.open(notification.thread, "fd/\(number)")
    }

    /// Reads the program's memory without ever waiting for a fault: what is not resident comes from where it is stored.
    func readProgram(_ space: AddressSpace, _ address: UInt64, into buffer: UnsafeMutableRawBufferPointer) -> Bool {
        guard let agent = space.agent else { return false }
        var done = 0
        while done < buffer.count {
            let at = address &+ UInt64(done)
            let page = Page.number(at)
            if page >= Page.count_max { return false }
            let length = min(buffer.count - done, Int(Page.bytes - at % Page.bytes))
            let target = buffer.baseAddress! + done
            let count = pread(agent.programMemory.raw, target, length, off_t(truncatingIfNeeded: at))
            if count != length {
                guard let source = absentPage(space, page) else { return false }
                memcpy(target, source + Int(at % Page.bytes), length)
            }
            done += length
        }
        return true
    }

    /// What a page that is not mapped would hold, in a buffer that the next transfer overwrites.
    func absentPage(_ space: AddressSpace, _ page: UInt64) -> UnsafeMutableRawPointer? {
        if let entry = space.table.find(page), entry.pointee.isRemote {
            return store.read(entry, count: 1) ? store.readBuffer : nil
        }
        guard let index = space.regions.index(of: page) else { return nil }
        let region = space.regions.regions[index]
        guard let file = region.file else { return zeros }
        let offset = region.fileOffset + (page - region.pages.lowerBound) * Page.bytes
        return readFile(file, offset, 1) > 0 ? store.readBuffer : nil
    }
}
