import CFuse
import Glibc
import Kernel
import Lite
import Wire

/// One of the mount's threads: takes a request of the kernel, calls the storage component, answers. Everything here is
/// the thread's own; nothing is allocated per request.
final class MountThread {
    /// A write of 1 MiB with the protocol's header, as libfuse reads it.
    private static let receiveBytes = StorageLimit.transferBytes_max + (64 << 10)
    static let poolBytes = receiveBytes + StorageLimit.transferBytes_max
    /// libfuse up to this version reads at most 1 MiB and one page into the buffer that it is given; a later one gets
    /// none.
    private static let lastKnownFuse: Int32 = 316

    let mount: StorageMount
    let node: RackNode
    /// Requests of the kernel land here, so that the storage component can fetch what is written straight from it.
    let received: UnsafeMutableRawBufferPointer
    /// What is read lands here, written by the storage component.
    let transfer: UnsafeMutableRawBufferPointer
    let request: UnsafeMutableRawBufferPointer
    let response: UnsafeMutableRawBufferPointer
    /// For directory listings in the kernel's form.
    let listing: UnsafeMutableRawBufferPointer
    /// The request that is being served, as the kernel sent it.
    private var raw: UnsafeMutableRawPointer?
    /// It begins the session, and its answer is to say that set-user-ID and capabilities are cleared by the storage component.
    private var isNegotiating = false
    /// How the last call that prepares another one ended.
    var preparation = Status.ok

    /// `memory`: `poolBytes` of the node's pool.
    init(mount: StorageMount, memory: UnsafeMutableRawBufferPointer) {
        self.mount = mount
        node = mount.node
        received = UnsafeMutableRawBufferPointer(rebasing: memory[..<Self.receiveBytes])
        transfer = UnsafeMutableRawBufferPointer(rebasing: memory[Self.receiveBytes..<Self.poolBytes])
        request = .allocate(byteCount: StorageLimit.requestBytes_max, alignment: 16)
        response = .allocate(byteCount: 64 << 10, alignment: 16)
        listing = .allocate(byteCount: 128 << 10, alignment: 16)
    }

    deinit {
        request.deallocate()
        response.deallocate()
        listing.deallocate()
    }

    private static let key: pthread_key_t = {
        var key = pthread_key_t()
        pthread_key_create(&key, nil)
        return key
    }()

    /// The mount thread that calls: every operation of libfuse runs on one.
    static var current: MountThread {
        Unmanaged<MountThread>.fromOpaque(pthread_getspecific(key).unsafelyUnwrapped).takeUnretainedValue()
    }

    /// Serves requests until the session ends.
    func run(_ session: OpaquePointer) {
        pthread_setspecific(Self.key, Unmanaged.passUnretained(self).toOpaque())
        defer { pthread_setspecific(Self.key, nil) }
        let ownsBuffer = fuse_version() <= Self.lastKnownFuse
        var buffer = fuse_buf()
        buffer.mem = ownsBuffer ? received.baseAddress : nil
        while fuse_session_exited(session) == 0 {
            let count = fuse_session_receive_buf(session, &buffer)
            if count == -EINTR || count == -EAGAIN { continue }
            if count <= 0 { break }
            mount.requestCount.add(1, ordering: .relaxed)
            raw = buffer.mem
            isNegotiating = lego_fuse_offers_clearing(buffer.mem) != 0
            fuse_session_process_buf(session, &buffer)
        }
        if !ownsBuffer { free(buffer.mem) }
    }

    /// How libfuse reads requests and sends answers (`fuse_session_custom_io`). Every answer is sent by a mount thread.
    static let transport = fuse_custom_io(
        writev: { device, parts, count, _ in
            let thread = MountThread.current
            if thread.isNegotiating {
                thread.isNegotiating = false
                lego_fuse_accept_clearing(parts, count)
            }
            return Glibc.writev(device, parts, count)
        },
        read: { device, bytes, count, _ in Glibc.read(device, bytes, count) },
        splice_receive: nil, splice_send: nil)

    /// Whether who makes the request that is being served has no CAP_FSETID, as far as its kind tells.
    var clearsSetID: Bool { raw.map { lego_fuse_clears_set_id($0) != 0 } ?? false }

    /// Where `bytes` lie in the node's pool. Bytes from elsewhere are copied to `transfer` first.
    func poolOffset(_ bytes: UnsafeRawPointer, _ count: Int) -> UInt64 {
        var place = bytes
        if bytes < UnsafeRawPointer(received.baseAddress!)
            || bytes + count > UnsafeRawPointer(received.baseAddress! + received.count)
        {
            transfer.baseAddress!.copyMemory(from: bytes, byteCount: count)
            place = UnsafeRawPointer(transfer.baseAddress!)
        }
        return UInt64(place - UnsafeRawPointer(node.pool.baseAddress!))
    }
}
