import CLinux
import CLite
import Kernel
import Lite
import Synchronization

/// Memory that a program and its daemon share for the program's data: what the program names of it the daemon copies,
/// or has an adapter transfer, straight to and from regions. A file of fixed size that the daemon made, so that nothing
/// the program does to it can fault the daemon. Unmapped with the last reference.
final class SessionBuffer: Sendable {
    let file: MemoryFile
    /// Its registration with the node, made when an operation first leaves the host.
    let registration: Registration
    var base: UnsafeMutableRawPointer { file.base }
    var count: Int { file.count }

    init(bytes: Int) throws(KernelError) {
        let rounded = (bytes + 4095) & ~4095
        let descriptor = try Descriptor(
            checking: "memfd_create", lego_memfd_create_fixed("lite-buffer", UInt64(rounded)))
        file = try MemoryFile(mapping: descriptor, bytes: rounded)
        registration = Registration(file)
    }
}

/// A memory file's registration with the node, made at its first use. Any thread.
final class Registration: Sendable {
    private let file: MemoryFile
    private let memory = Mutex<LiteMemory?>(nil)

    init(_ file: MemoryFile) { self.file = file }

    /// nil where the adapter has no room for another region.
    func get(_ node: RackNode) -> LiteMemory? {
        memory.withLock { memory in
            if memory == nil {
                // Said to the program as `LITE_ELIMIT`.
                do throws(LiteError) { memory = try node.register(file.bytes) } catch { return nil }
            }
            return memory
        }
    }
}

extension Session {
    /// Bytes of a buffer that a submission names, and the buffer, which is sure to live as long as `lock` is held; nil where
    /// they are none. `lock` is held.
    @inline(__always)
    func bufferLocked(_ place: UInt64, count: UInt64) -> (UnsafeMutableRawPointer, Unmanaged<SessionBuffer>)? {
        let number = Int(place >> UInt64(LITE_BUFFER_SHIFT))
        guard number > 0, number <= buffers.count else { return nil }
        guard let found = buffers.uncounted(SessionBuffer.self, at: number - 1) else { return nil }
        let (base, bytes) = found._withUnsafeGuaranteedRef { ($0.base, $0.count) }
        let offset = place & (1 << UInt64(LITE_BUFFER_SHIFT) - 1)
        guard offset <= UInt64(bytes), count <= UInt64(bytes) - offset else { return nil }
        return (base + Int(offset), found)
    }
}

// Buffers that programs make and drop.
extension LiteService {
    func serveMakeBuffer(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        let (status, number) = makeBuffer(channel.session, submission.operand)
        channel.complete(slot, status, value: number)
    }

    private func makeBuffer(_ session: Session, _ bytes: UInt64) -> (Int32, UInt64) {
        guard bytes > 0, bytes <= configuration.bufferBytes_max else {
            return (bytes == 0 ? Code.invalid : Code.limit, 0)
        }
        let buffer: SessionBuffer
        do throws(KernelError) {
            buffer = try SessionBuffer(bytes: Int(bytes))
        } catch {
            logger.warning("no memory for a program's buffer", metadata: ["reason": "\(error)"])
            return (Code.noSpace, 0)
        }
        session.lock.lock()
        let taken = session.buffers.reduce(0) { $0 + UInt64($1?.count ?? 0) }
        var index = session.buffers.firstIndex { $0 == nil }
        if index == nil, session.buffers.count < Int(LITE_BUFFERS) {
            session.buffers.append(nil)
            index = session.buffers.count - 1
        }
        let isRefused = session.isEnded || taken + UInt64(buffer.count) > configuration.bufferBytes_max
        if let index, !isRefused { session.buffers[index] = buffer }
        session.lock.unlock()
        guard let index, !isRefused else { return (Code.limit, 0) }
        let number = UInt64(index + 1)
        var notice = lite_buffer_notice(number: number, bytes: UInt64(buffer.count))
        var descriptor = buffer.file.descriptor
        let sent = lego_send_descriptors(
            session.socket.raw, &notice, MemoryLayout<lite_buffer_notice>.size, &descriptor, 1)
        if sent < 0 {
            _ = dropBuffer(session, number)
            return (Code.limit, 0)
        }
        return (Code.ok, number)
    }

    /// Operations under way end as they would have; they keep the memory until then.
    func dropBuffer(_ session: Session, _ number: UInt64) -> Int32 {
        session.lock.lock()
        var dropped: SessionBuffer?
        if number > 0, number <= UInt64(session.buffers.count) {
            dropped = session.buffers[Int(number) - 1]
            session.buffers[Int(number) - 1] = nil
        }
        session.lock.unlock()
        // Unmapping takes its time, and takes place here, without the lock.
        return dropped == nil ? Code.handle : Code.ok
    }
}
