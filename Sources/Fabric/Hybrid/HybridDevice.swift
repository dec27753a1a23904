import Kernel

/// Which device a daemon uses.
public enum HybridDeviceConfiguration: Sendable {
    case soft(SoftDeviceConfiguration)
    case verbs(VerbsDeviceConfiguration)
    /// An adapter where the host has one with an active port, else the emulated one.
    case automatic
}

/// A device of either kind, chosen when it is made: for daemons whose configuration decides. Each call costs a branch
/// more than the device itself. All nodes of a rack must use the same kind.
public final class HybridDevice: RDMADevice {
    private enum Kind {
        case soft(SoftDevice)
        case verbs(VerbsDevice)
    }

    private let kind: Kind

    public init(_ configuration: HybridDeviceConfiguration) throws(FabricError) {
        switch configuration {
        case .soft(let configuration): kind = .soft(try SoftDevice(configuration: configuration))
        case .verbs(let configuration): kind = .verbs(try VerbsDevice(configuration: configuration))
        case .automatic:
            do throws(FabricError) {
                kind = .verbs(try VerbsDevice())
            } catch {
                guard case .noDevice = error else { throw error }
                kind = .soft(try SoftDevice())
            }
        }
    }

    /// Whether it is a real adapter.
    public var isVerbs: Bool {
        switch kind {
        case .soft: false
        case .verbs: true
        }
    }

    public func allocate(bytes: Int, access: RemoteAccess) throws(FabricError) -> HybridRegion {
        switch kind {
        case .soft(let device): HybridRegion(try device.allocate(bytes: bytes, access: access))
        case .verbs(let device): HybridRegion(try device.allocate(bytes: bytes, access: access))
        }
    }

    public func register(_ memory: UnsafeMutableRawBufferPointer, access: RemoteAccess) throws(FabricError)
        -> HybridRegion
    {
        switch kind {
        case .soft(let device): HybridRegion(try device.register(memory, access: access))
        case .verbs(let device): HybridRegion(try device.register(memory, access: access))
        }
    }

    public func makeCompletionQueue(capacity: Int) throws(FabricError) -> HybridCompletionQueue {
        switch kind {
        case .soft(let device): HybridCompletionQueue(.soft(try device.makeCompletionQueue(capacity: capacity)))
        case .verbs(let device): HybridCompletionQueue(.verbs(try device.makeCompletionQueue(capacity: capacity)))
        }
    }

    public func listen(on address: FabricAddress) throws(FabricError) -> FabricAddress {
        switch kind {
        case .soft(let device): try device.listen(on: address)
        case .verbs(let device): try device.listen(on: address)
        }
    }

    public func nextRequest(until deadline: Deadline) throws(FabricError) -> HybridConnectionRequest? {
        switch kind {
        case .soft(let device):
            guard let request = try device.nextRequest(until: deadline) else { return nil }
            return HybridConnectionRequest(.soft(request))
        case .verbs(let device):
            guard let request = try device.nextRequest(until: deadline) else { return nil }
            return HybridConnectionRequest(.verbs(request))
        }
    }

    public func connect(
        to address: FabricAddress, send: HybridCompletionQueue, receive: HybridCompletionQueue,
        parameters: QueuePairParameters, privateData: [UInt8], until deadline: Deadline,
        prepare: (HybridQueuePair) throws(FabricError) -> Void
    ) throws(FabricError) -> (HybridQueuePair, privateData: [UInt8]) {
        switch (kind, send.kind, receive.kind) {
        case (.soft(let device), .soft(let send), .soft(let receive)):
            let (pair, data) = try device.connect(
                to: address, send: send, receive: receive, parameters: parameters, privateData: privateData,
                until: deadline, prepare: { (pair) throws(FabricError) in try prepare(HybridQueuePair(.soft(pair))) })
            return (HybridQueuePair(.soft(pair)), data)
        case (.verbs(let device), .verbs(let send), .verbs(let receive)):
            let (pair, data) = try device.connect(
                to: address, send: send, receive: receive, parameters: parameters, privateData: privateData,
                until: deadline, prepare: { (pair) throws(FabricError) in try prepare(HybridQueuePair(.verbs(pair))) })
            return (HybridQueuePair(.verbs(pair)), data)
        default: throw .invalid("completion queues of another device: they must be this device's")
        }
    }

    public func close() {
        switch kind {
        case .soft(let device): device.close()
        case .verbs(let device): device.close()
        }
    }
}
