import CLinux
import CLite
import Glibc
import Kernel

// Programs that join and leave.
extension LiteService {
    /// Takes a program's connection; what it wants it says next. The leader.
    func admit() {
        while let socket = acceptProgram() {
            var who = lego_peer_credentials()
            if lego_socket_peer_credentials(socket.raw, &who) < 0 { continue }
            let raw = socket.raw
            let number = control.withLock { $0.nextNumber() }
            let session = Session(
                id: number, user: who.uid, process: who.pid, priority: LITE_PRIORITY_NORMAL.rawValue, socket: socket)
            let isFull = control.withLock { state in
                if state.sessions.count >= configuration.channels_max { return true }
                state.sessions[number] = session
                return false
            }
            if isFull { continue }
            do throws(KernelError) {
                try epoll.add(raw, token: number)
            } catch {
                control.withLock { $0.sessions[number] = nil }
                logger.warning("a program cannot join", metadata: ["reason": "\(error)"])
            }
        }
    }

    /// The hand-shake; false when the program is not one of LITE. The leader.
    func greet(_ session: Session) -> Bool {
        var hello = lite_hello()
        let size = recv(session.socket.raw, &hello, MemoryLayout<lite_hello>.size, Int32(MSG_DONTWAIT))
        if size < 0, errno == EAGAIN || errno == EINTR { return true }
        guard size == MemoryLayout<lite_hello>.size, hello.magic == LITE_MAGIC else { return false }
        var welcome = lite_welcome()
        welcome.magic = LITE_MAGIC
        welcome.version = UInt16(LITE_CHANNEL_VERSION)
        welcome.node = own
        guard hello.version == LITE_CHANNEL_VERSION, (1...Int(LITE_CHANNELS_MAX)).contains(Int(hello.channels)),
            hello.priority <= LITE_PRIORITY_LOW.rawValue
        else {
            welcome.status = Code.invalid
            send(&welcome, [], to: session)
            return false
        }
        session.setPriority(UInt32(hello.priority))
        do throws(KernelError) {
            for _ in 0..<hello.channels {
                let added = try channels.add { (number) throws(KernelError) in
                    try ServiceChannel(
                        number: number, session: session, heedsPriority: configuration.softwarePriority)
                }
                guard let added else { throw KernelError("channels", ENOSPC) }
                session.channels.append(added)
            }
        } catch {
            logger.warning("a program cannot join", metadata: ["process": "\(session.process)", "reason": "\(error)"])
            welcome.status = Code.limit
            send(&welcome, [], to: session)
            return false
        }
        welcome.channels = UInt16(hello.channels)
        send(&welcome, session.channels.map(\.descriptor), to: session)
        logger.debug("a program joined", metadata: ["process": "\(session.process)", "user": "\(session.user)"])
        return true
    }

    private func send(_ welcome: inout lite_welcome, _ descriptors: [Int32], to session: Session) {
        // A program that is gone is noticed by the end of its connection.
        _ = lego_send_descriptors(
            session.socket.raw, &welcome, MemoryLayout<lite_welcome>.size, descriptors, descriptors.count)
    }

    /// Nothing more is heard of the session. The leader.
    func unlist(_ session: Session) {
        do throws(KernelError) {
            try epoll.remove(session.socket.raw)
        } catch {
            logger.debug("a program's socket was not watched", metadata: ["reason": "\(error)"])
        }
    }

    /// Ends a program that breaks the rules of its channel: its connection ends, and with it the session.
    func expel(_ session: Session) {
        logger.warning(
            "a program is expelled: what it wrote into its channel makes no sense",
            metadata: ["process": "\(session.process)"])
        shutdown(session.socket.raw, Int32(SHUT_RDWR))
    }

    /// Gives back everything that a program had. In a lane, or by `stop`.
    func end(_ session: Session) {
        let isFirst = control.withLock { $0.sessions.removeValue(forKey: session.id) != nil }
        if !isFirst { return }
        let waits = session.channels.flatMap { $0.close() }
        var handles: [(UInt64, HandleEntry.Kind)] = []
        var calls: [IncomingCall] = []
        session.lock.lock()
        session.isEnded = true
        session.handles.forEach { handle, entry in handles.append((handle, entry.pointee.kind)) }
        let buffers = session.buffers
        session.buffers = []
        session.incoming.forEach { _, call in calls.append(call.pointee) }
        session.lock.unlock()
        for queue in functions.removeAll(of: session) { close(queue) }
        for call in calls { finishCall(call, Code.gone, Self.nothing) }
        for (handle, kind) in handles {
            switch kind {
            case .region: _ = closeRegion(session, handle)
            case .lock: _ = closeLock(session, handle, hasEnded: true)
            case .none: break
            }
        }
        for (wait, token) in waits where wait.kind == .barrier { departBarrier(wait, token, session) }
        for number in control.withLock({ $0.unnamed.removeValue(forKey: session.id) ?? [] }) { freeRegion(number) }
        for channel in session.channels { channels.remove(channel) }
        // A program that is still there learns of it.
        shutdown(session.socket.raw, Int32(SHUT_RDWR))
        // Each channel holds its session. Whoever copies to or from a buffer just now holds that.
        session.channels = []
        withExtendedLifetime(buffers) {}
        logger.debug("a program left", metadata: ["process": "\(session.process)"])
    }
}
