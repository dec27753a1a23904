import Fabric

/// The device that daemons use: an adapter where the host has one, and always an emulated one beside it.
public typealias RackDevice = HybridDevice
/// The node type that daemons use.
public typealias RackNode = LiteNode<RackDevice>
