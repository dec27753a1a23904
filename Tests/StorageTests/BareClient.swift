import Fabric
import Glibc
import Kernel
import Lite
import Wire

@testable import StorageService

/// A client that speaks to a storage component message by message.
struct BareClient: Sendable {
    let node: RackNode
    let peer: LitePeer
    private(set) var root: UInt64 = 0

    init(_ storage: TestStorage) throws {
        let address = FabricAddress(host: "127.0.0.1", port: 0)
        let lite = LiteConfiguration(name: "bare", listen: address, poolBytes: 1 << 20)
        node = try RackNode(device: RackDevice(), configuration: lite)
        try node.start()
        peer = try node.connect(to: storage.node.address, until: .after(.seconds(10)))
    }

    func close() { node.close() }

    /// Answers whether the component has accepted it.
    mutating func attach() -> Bool {
        let bytes = call(StorageFunction.attach, ProcessorStorageAttach()).bytes
        guard let entry = bytes.withUnsafeBytes({ StorageEntry(decoding: $0) }) else { return false }
        root = entry.node
        return true
    }

    func call(_ function: FunctionID, _ message: some WireMessage) -> (status: Status, bytes: [UInt8]) {
        var request = [UInt8](repeating: 0, count: StorageLimit.requestBytes_max)
        let count = request.withUnsafeMutableBytes { message.encode(into: $0) } ?? 0
        return call(function, Array(request[..<count]))
    }

    func call(_ function: FunctionID, _ bytes: [UInt8]) -> (status: Status, bytes: [UInt8]) {
        var response = [UInt8](repeating: 0, count: 64 << 10)
        let result = bytes.withUnsafeBytes { request in
            response.withUnsafeMutableBytes { response in
                node.call(peer, function, request: request, response: response, until: .after(.seconds(20)))
            }
        }
        return (result.status, Array(response[..<result.count]))
    }

    func name<Result>(_ text: String, _ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        var text = text
        return text.withUTF8 { body(UnsafeRawBufferPointer($0)) }
    }

    func lookUp(_ parent: UInt64, _ text: String) -> Status {
        name(text) { call(StorageFunction.lookUp, ProcessorStorageName(parent: parent, name: $0)).status }
    }

    func find(
        _ parent: UInt64, _ text: String, _ function: FunctionID = StorageFunction.lookUp
    ) -> StorageEntry? {
        let bytes = name(text) { call(function, ProcessorStorageName(parent: parent, name: $0)).bytes }
        return bytes.withUnsafeBytes { StorageEntry(decoding: $0) }
    }

    func open(_ node: UInt64, _ flags: Int32) -> UInt64? {
        let message = ProcessorStorageOpen(node: node, flags: UInt32(bitPattern: flags))
        let bytes = call(StorageFunction.open, message).bytes
        return bytes.withUnsafeBytes { StorageProcessorOpened(decoding: $0)?.file }
    }
}
