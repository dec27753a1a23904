import CLinux
import CLite
import Glibc
import Kernel
import Synchronization

// Memory that a program shares with the daemon: reads and writes from and to it are copied once, not twice.
extension LiteSession {
    func makeBuffer(_ bytes: UInt64, _ address: inout UnsafeMutableRawPointer?) -> Int32 {
        if bytes == 0 { return LITE_EINVAL.code }
        // One at a time: descriptors come in the order of the requests.
        return making.withLock { _ in
            var number: UInt64 = 0
            let status = run(LITE_OP_BUFFER_MAKE, bytes: 0) { submission, _ in
                submission.operand = bytes
            } collect: { outcome, _ in
                number = outcome.value
            }
            if status < 0 { return status }
            guard let file = receiveBuffer(number), let start = buffers.add(file, number: number) else {
                _ = manage(LITE_OP_BUFFER_DROP, 0, number)
                return LITE_ENOSPACE.code
            }
            address = start
            return 0
        }
    }

    /// The descriptor that the daemon sent before it answered.
    private func receiveBuffer(_ number: UInt64) -> MemoryFile? {
        var notice = lite_buffer_notice()
        var descriptor: Int32 = -1
        var received = 0
        let size = lego_receive_descriptors(
            socket, &notice, MemoryLayout<lite_buffer_notice>.size, &descriptor, 1, &received, nil,
            Int32(MSG_DONTWAIT))
        guard received == 1 else { return nil }
        let file = Descriptor(taking: descriptor)
        guard size == MemoryLayout<lite_buffer_notice>.size, notice.number == number,
            let bytes = Int(exactly: notice.bytes)
        else { return nil }
        do throws(KernelError) {
            return try MemoryFile(mapping: file, bytes: bytes)
        } catch { return nil }
    }

    func dropBuffer(_ address: UnsafeRawPointer) -> Int32 {
        guard let (number, file) = buffers.remove(address) else { return LITE_EINVAL.code }
        return withExtendedLifetime(file) { manage(LITE_OP_BUFFER_DROP, 0, number) }
    }

    // MARK: Public

    /// Memory, zeroed, that reads and writes move straight between and regions, without a copy in the program. Whole
    /// pages; at most 64 buffers a session. What `read`, `write` and their asynchronous forms are given of it is not
    /// copied when they return: it is the daemon's until the operation is over. It is gone when the session is left.
    public func allocateBuffer(_ bytes: Int) throws(LiteFailure) -> UnsafeMutableRawBufferPointer {
        var address: UnsafeMutableRawPointer?
        try LiteFailure.check(makeBuffer(UInt64(clamping: bytes), &address))
        return UnsafeMutableRawBufferPointer(start: address, count: bytes)
    }

    /// Gives such memory back; nothing may be under way with it.
    public func freeBuffer(_ buffer: UnsafeMutableRawBufferPointer) throws(LiteFailure) {
        guard let start = buffer.baseAddress else { throw .invalid }
        try LiteFailure.check(dropBuffer(start))
    }
}
