import Fabric

/// The device that daemons use.
public typealias RackDevice = SoftDevice
/// The node type that daemons use.
public typealias RackNode = LiteNode<RackDevice>
