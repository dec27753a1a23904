import CLinux
import Glibc
import Kernel
import Synchronization

/// An open file in use by one request. `descriptor` is negative, an error number, when there is none.
struct FileUse {
    var file: UInt64
    var descriptor: Int32
    var isDirectory = false
    var device: UInt64 = 0
    var node: UInt64 = 0
}

extension StorageClient {
    /// Takes an open descriptor in; answers the file's handle, or nil (and closes it) when the client has as many as it
    /// may.
    func opened(_ descriptor: Int32, node: UInt64, isDirectory: Bool, device: UInt64) -> UInt64? {
        let handle = withState { state -> UInt64? in
            guard !state.isClosed, let owner = state.nodes.pointer(node) else { return nil }
            let file = OpenFile(descriptor: descriptor, node: node, isDirectory: isDirectory, device: device)
            guard let handle = state.files.insert(file) else { return nil }
            owner.pointee.openFiles += 1
            return handle
        }
        if handle == nil { close(descriptor) }
        return handle
    }

    /// Finds an open file for one request; `endUse` must follow where there is one. Cost: a lock.
    func useFile(_ handle: UInt64) -> FileUse {
        withState { state in
            guard let file = state.files.pointer(handle), !file.pointee.isClosing else {
                return FileUse(file: 0, descriptor: -ESTALE)
            }
            file.pointee.users += 1
            return FileUse(
                file: handle, descriptor: file.pointee.descriptor, isDirectory: file.pointee.isDirectory,
                device: file.pointee.device, node: file.pointee.node)
        }
    }

    func endUse(_ use: FileUse) {
        finish(use.file) { $0.pointee.users -= 1 }
    }

    /// Closes an open file, now or with the end of its last use. Unknown handles are ignored.
    func release(_ handle: UInt64) {
        finish(handle) { $0.pointee.isClosing = true }
    }

    private func finish(_ handle: UInt64, _ change: (UnsafeMutablePointer<OpenFile>) -> Void) {
        let (descriptor, node) = withState { state -> (Int32, Int32) in
            guard let file = state.files.pointer(handle) else { return (-1, -1) }
            change(file)
            if !file.pointee.isClosing || file.pointee.users > 0 { return (-1, -1) }
            let descriptor = file.pointee.descriptor
            let owner = file.pointee.node
            state.files.remove(handle)
            if state.isClosed { return (descriptor, -1) }
            state.nodes.pointer(owner)?.pointee.openFiles -= 1
            return (descriptor, state.freeIfUnused(owner))
        }
        if descriptor >= 0 { close(descriptor) }
        if node >= 0 { close(node) }
    }
}
