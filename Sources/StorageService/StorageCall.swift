import CLinux
import Glibc
import Lite
import Wire

/// One request to the storage component, and the ways to answer it. Lives as long as its handler runs.
struct StorageCall {
    let tree: ExportTree
    let client: StorageClient
    let request: UnsafeRawBufferPointer
    let response: UnsafeMutableRawBufferPointer

    /// Answers an error number; a negative one as the shims give it will do.
    func fail(_ number: Int32) -> CallResult { CallResult(status: .system(number < 0 ? -number : number)) }

    var malformed: CallResult { CallResult(status: .malformed) }
    var done: CallResult { CallResult(status: .ok) }

    /// Answers what a shim told: 0 or a negative error number.
    func answer(_ result: Int32) -> CallResult { result < 0 ? fail(result) : done }

    func answer(_ message: borrowing some WireMessage) -> CallResult {
        guard let count = message.encode(into: response) else { return CallResult(status: .tooLarge) }
        return CallResult(status: .ok, count: count)
    }

    /// The attributes of a node as its status tells them.
    func attributes(_ status: lego_file_status) -> StorageAttributes {
        var attributes = StorageAttributes()
        attributes.inode = tree.inode(status.inode, device: status.device)
        attributes.size = status.size
        attributes.blocks = status.blocks
        attributes.accessSeconds = status.access_s
        attributes.modifySeconds = status.modify_s
        attributes.changeSeconds = status.change_s
        attributes.accessNanoseconds = status.access_ns
        attributes.modifyNanoseconds = status.modify_ns
        attributes.changeNanoseconds = status.change_ns
        attributes.mode = status.mode
        attributes.links = status.links
        attributes.user = status.uid
        attributes.group = status.gid
        attributes.special = status.special
        attributes.blockBytes = status.block_bytes
        attributes.birth = status.birth_ns
        return attributes
    }

    /// Opens a node for the length of `body`; answers the error where it cannot be.
    func withNode(_ handle: UInt64, _ body: (NodeUse) -> CallResult) -> CallResult {
        let use = client.use(handle)
        if use.descriptor < 0 { return fail(use.descriptor) }
        defer { client.endUse(use) }
        return body(use)
    }

    func withDirectory(_ handle: UInt64, _ body: (NodeUse) -> CallResult) -> CallResult {
        withNode(handle) { $0.isDirectory ? body($0) : fail(ENOTDIR) }
    }

    func withFile(_ handle: UInt64, _ body: (FileUse) -> CallResult) -> CallResult {
        let use = client.useFile(handle)
        if use.descriptor < 0 { return fail(use.descriptor) }
        defer { client.endUse(use) }
        return body(use)
    }

    /// A name as the system calls take it. Refuses what is not one component: EINVAL. Copied before it is looked at:
    /// the peer can write where the request lies.
    func withName(_ bytes: UnsafeRawBufferPointer, _ body: (UnsafePointer<CChar>) -> CallResult) -> CallResult {
        if bytes.count > StorageLimit.name_max { return fail(ENAMETOOLONG) }
        return Self.withTerminated(bytes) { name in
            guard Self.isName(UnsafeRawBufferPointer(start: name, count: bytes.count)) else { return fail(EINVAL) }
            return body(name)
        }
    }

    /// Whether the bytes name an entry of a directory.
    static func isName(_ bytes: UnsafeRawBufferPointer) -> Bool {
        if bytes.isEmpty { return false }
        for byte in bytes where byte == 0 || byte == UInt8(ascii: "/") { return false }
        let dot = UInt8(ascii: ".")
        return !(bytes[0] == dot && (bytes.count == 1 || bytes.count == 2 && bytes[1] == dot))
    }

    static func withTerminated<Result>(
        _ bytes: UnsafeRawBufferPointer, _ body: (UnsafePointer<CChar>) -> Result
    ) -> Result {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: bytes.count + 1) { buffer in
            UnsafeMutableRawBufferPointer(buffer).copyMemory(from: bytes)
            buffer[bytes.count] = 0
            return body(buffer.baseAddress!)
        }
    }
}

extension StorageService {
    private typealias Operation = @Sendable (StorageService, StorageCall) -> CallResult

    /// Which requests change the tree: refused by a read-only component. (`open` and `create` look at their flags.)
    private enum Effect { case reads, changes }

    func registerFunctions() {
        let small = 512
        let large = StorageLimit.answerBytes_max
        let request = StorageLimit.requestBytes_max
        node.register(StorageFunction.attach, requestBytes_max: small, responseBytes_max: small, on: .worker) {
            [weak self] peer, request, response in
            self?.attach(peer, request, response) ?? CallResult(status: .busy)
        }
        node.register(StorageFunction.ping, requestBytes_max: small, responseBytes_max: small, on: .poller) { _, _, _ in
            CallResult(status: .ok)
        }
        offer(StorageFunction.lookUp, small, small, .reads) { $0.lookUp($1, .mayBeBusy) }
        offer(StorageFunction.lookUpOpen, small, small, .reads) { $0.lookUp($1, .open) }
        offer(StorageFunction.review, 20 << 10, 8 << 10, .reads) { $0.review($1) }
        offer(StorageFunction.forget, 16 << 10, small, .reads) { $0.forget($1) }
        offer(StorageFunction.getAttributes, small, small, .reads) { $0.getAttributes($1) }
        offer(StorageFunction.setAttributes, small, small, .changes) { $0.setAttributes($1) }
        offer(StorageFunction.readLink, small, StorageLimit.target_max + 1, .reads) { $0.readLink($1) }
        offer(StorageFunction.makeNode, 8 << 10, small, .changes) { $0.makeNode($1) }
        offer(StorageFunction.makeLink, small, small, .changes) { $0.makeLink($1) }
        offer(StorageFunction.unlink, small, small, .changes) { $0.unlink($1, directory: false) }
        offer(StorageFunction.removeDirectory, small, small, .changes) { $0.unlink($1, directory: true) }
        offer(StorageFunction.rename, 1024, small, .changes) { $0.rename($1) }
        offer(StorageFunction.fileSystemStatus, small, small, .reads) { $0.fileSystemStatus($1) }
        offer(StorageFunction.open, small, small, .reads) { $0.open($1) }
        offer(StorageFunction.create, small, small, .changes) { $0.create($1) }
        offer(StorageFunction.read, small, small, .reads) { $0.read($1) }
        offer(StorageFunction.write, small, small, .changes) { $0.write($1) }
        offer(StorageFunction.synchronize, small, small, .reads) { $0.synchronize($1) }
        offer(StorageFunction.allocate, small, small, .changes) { $0.allocate($1) }
        offer(StorageFunction.seek, small, small, .reads) { $0.seek($1) }
        offer(StorageFunction.lend, small, small, .reads) { $0.lend($1) }
        offer(StorageFunction.copy, small, small, .changes) { $0.copy($1) }
        offer(StorageFunction.readDirectory, small, large, .reads) { $0.readDirectory($1) }
        offer(StorageFunction.getExtended, small, large, .reads) { $0.getExtended($1) }
        offer(StorageFunction.listExtended, small, large, .reads) { $0.listExtended($1) }
        offer(StorageFunction.setExtended, request, small, .changes) { $0.setExtended($1) }
        offer(StorageFunction.removeExtended, small, small, .changes) { $0.removeExtended($1) }
    }

    private func offer(
        _ function: FunctionID, _ requestBytes_max: Int, _ responseBytes_max: Int, _ effect: Effect,
        _ operation: @escaping Operation
    ) {
        let isRefused = effect == .changes && configuration.isReadOnly
        node.register(
            function, requestBytes_max: requestBytes_max, responseBytes_max: responseBytes_max, on: .worker
        ) { [weak self] peer, request, response in
            if isRefused { return CallResult(status: .system(EROFS)) }
            // A request of a peer that never attached, or of one whose loss is being told, finds no handles.
            guard let self, let tree, let client = client(peer) else { return CallResult(status: .system(ESTALE)) }
            return operation(self, StorageCall(tree: tree, client: client, request: request, response: response))
        }
    }

    private func attach(
        _ peer: LitePeer, _ request: UnsafeRawBufferPointer, _ response: UnsafeMutableRawBufferPointer
    ) -> CallResult {
        guard let message = ProcessorStorageAttach(decoding: request) else { return CallResult(status: .malformed) }
        if message.version != StorageLimit.version { return CallResult(status: .system(EPROTO)) }
        guard let tree, let client = attach(peer) else { return CallResult(status: .busy) }
        let call = StorageCall(tree: tree, client: client, request: request, response: response)
        return call.withNode(client.root) { root in
            var status = lego_file_status()
            let result = lego_file_status(root.descriptor, "", &status)
            if result < 0 { return call.fail(result) }
            return call.answer(StorageEntry(node: client.root, attributes: call.attributes(status)))
        }
    }
}
