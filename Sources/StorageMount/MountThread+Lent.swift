import CLinux
import Glibc
import Kernel
import Lite
import Wire

// Files of a storage component on the same host. As memory of such a component is read and written where it lies, so are
// files: the component opens a file, and lends its descriptor to a processor that transfers more than a little. What
// remains of a read or a write is the way through FUSE and the file system's own work; the component's threads, which a
// request would wake twice, sleep on. All else about the file stays the component's.
extension MountThread {
    /// A file that is read and written this often is borrowed: to borrow takes as long as a transfer.
    private static let transfersBefore: UInt32 = 4
    private static let lendTimeout: Duration = .seconds(1)

    /// The descriptor for a transfer that begins; nil where the storage component must be asked: it is elsewhere, its link
    /// has a model, or it is lost. Without borrowing two locks and no call.
    func lentFile(_ file: UInt64) -> Int32? {
        guard let use = mount.files.beginTransfer(file), use.lent >= 0 || use.transfers == Self.transfersBefore,
            let session = mount.link.current, session.number == use.session,
            let process = node.localProcess(of: session.peer)
        else { return nil }
        if use.lent >= 0 {
            mount.lentTransfers.add(1, ordering: .relaxed)
            return use.lent
        }
        borrow(file, use, session, process)
        // This one takes the way on which the answer was.
        return nil
    }

    private func borrow(
        _ file: UInt64, _ use: OpenFileTable.TransferUse, _ session: StorageSession, _ process: Int32
    ) {
        let count = encode(ProcessorStorageFile(file: use.handle))
        if count < 0 { return }
        let result = node.call(
            session.peer, StorageFunction.lend, request: UnsafeRawBufferPointer(rebasing: request[..<count]),
            response: response, until: .after(Self.lendTimeout))
        guard result.status.isOK,
            let number: StorageProcessorCount = decode(
                StorageReply(error: 0, count: result.count, session: session.number)),
            let number = Int32(exactly: number.count)
        else { return }
        let descriptor = Self.copy(number, of: process)
        if descriptor < 0 { return }
        // The component keeps the number for this file, and the process is the component, while it is connected.
        if !session.peer.isConnected || !Self.isFile(descriptor)
            || !mount.files.lend(file, descriptor, session: session.number)
        {
            close(descriptor)
        }
    }

    private static func copy(_ number: Int32, of process: Int32) -> Int32 {
        let handle = lego_pidfd_open(process)
        if handle < 0 { return handle }
        defer { close(handle) }
        return lego_pidfd_getfd(handle, number)
    }

    private static func isFile(_ descriptor: Int32) -> Bool {
        var status = stat()
        return fstat(descriptor, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
    }
}
