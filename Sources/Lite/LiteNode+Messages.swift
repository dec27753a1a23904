import Fabric
import Kernel
import Wire

extension LiteNode {
    /// Encodes, calls and decodes: for the control path. Allocates. `malformed` when the peer answers `ok` with something that does
    /// not decode; beside another status the response is there if it decodes.
    public func call<Request: WireMessage, Response: WireMessage>(
        _ peer: LitePeer, _ function: FunctionID, _ request: Request, answer: Response.Type = Response.self,
        until deadline: Deadline
    ) -> (status: Status, response: Response?) {
        let bytes = configuration.messageBytes_max
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 2 * bytes, alignment: 16)
        defer { buffer.deallocate() }
        let outgoing = UnsafeMutableRawBufferPointer(rebasing: buffer[..<bytes])
        let incoming = UnsafeMutableRawBufferPointer(rebasing: buffer[bytes...])
        guard let count = request.encode(into: outgoing) else { return (.tooLarge, nil) }
        let result = call(
            peer, function, request: UnsafeRawBufferPointer(rebasing: outgoing[..<count]), response: incoming,
            until: deadline)
        if !result.status.isOK && result.count == 0 { return (result.status, nil) }
        let response = Response(decoding: UnsafeRawBufferPointer(rebasing: incoming[..<result.count]))
        if result.status.isOK && response == nil { return (.malformed, nil) }
        return (result.status, response)
    }

    /// Registers a handler that decodes, runs on a worker and encodes: for the control path. A request that does not decode is
    /// answered `malformed`, a response that does not fit `tooLarge`.
    public func register<Request: WireMessage, Response: WireMessage>(
        _ function: FunctionID, _ request: Request.Type, _ response: Response.Type,
        _ handler: @escaping @Sendable (LitePeer, Request) -> (Status, Response?)
    ) {
        let bytes = configuration.messageBytes_max
        register(function, requestBytes_max: bytes, responseBytes_max: bytes, on: .worker) { peer, bytes, answer in
            // Decoded from a copy: the original lies in memory that the peer can change between two looks at it.
            let message = [UInt8](bytes).withUnsafeBytes { Request(decoding: $0) }
            guard let message else { return CallResult(status: .malformed) }
            let (status, response) = handler(peer, message)
            guard let response else { return CallResult(status: status) }
            guard let count = response.encode(into: answer) else { return CallResult(status: .tooLarge) }
            return CallResult(status: status, count: count)
        }
    }
}
