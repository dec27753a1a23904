// Processors speak to storage components: what makes, links and renames nodes.

/// Makes a node whose type is in `mode`: a directory, a regular file, a FIFO, a socket, a device, or a symbolic link to
/// `target` (`makeNode`, answered by `StorageEntry`); or makes and opens a regular file with the open(2) `flags`
/// (`create`, answered by `StorageProcessorCreated`). EEXIST when the name is taken.
public struct ProcessorStorageMake: WireMessage, @unchecked Sendable {
    public var parent: UInt64
    public var mode: UInt32
    /// Owner of the new node; a set-group-ID directory gives its own group.
    public var user: UInt32
    public var group: UInt32
    public var special: UInt32
    public var flags: UInt32
    public var name: UnsafeRawBufferPointer
    public var target: UnsafeRawBufferPointer

    public init(
        parent: UInt64, mode: UInt32, user: UInt32, group: UInt32, special: UInt32 = 0, flags: UInt32 = 0,
        name: UnsafeRawBufferPointer, target: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0)
    ) {
        self.parent = parent
        self.mode = mode
        self.user = user
        self.group = group
        self.special = special
        self.flags = flags
        self.name = name
        self.target = target
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(parent)
        writer.write(mode)
        writer.write(user)
        writer.write(group)
        writer.write(special)
        writer.write(flags)
        writer.write(counted: name)
        writer.write(counted: target)
    }

    public init?(from reader: inout WireReader) {
        parent = reader.read()
        mode = reader.read()
        user = reader.read()
        group = reader.read()
        special = reader.read()
        flags = reader.read()
        name = reader.readCounted(max: StorageLimit.name_max)
        target = reader.readCounted(max: StorageLimit.target_max)
        if !reader.isValid { return nil }
    }
}

/// Gives a node another name. Answered by `StorageEntry`.
public struct ProcessorStorageLink: WireMessage, @unchecked Sendable {
    public var node: UInt64
    public var parent: UInt64
    public var name: UnsafeRawBufferPointer

    public init(node: UInt64, parent: UInt64, name: UnsafeRawBufferPointer) {
        self.node = node
        self.parent = parent
        self.name = name
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(node)
        writer.write(parent)
        writer.write(counted: name)
    }

    public init?(from reader: inout WireReader) {
        node = reader.read()
        parent = reader.read()
        name = reader.readCounted(max: StorageLimit.name_max)
        if !reader.isValid { return nil }
    }
}

/// Renames atomically, with the flags of renameat2(2). Answered by `StorageProcessorRenamed`.
public struct ProcessorStorageRename: WireMessage, @unchecked Sendable {
    public var parent: UInt64
    public var newParent: UInt64
    public var flags: UInt32
    public var name: UnsafeRawBufferPointer
    public var newName: UnsafeRawBufferPointer

    public init(
        parent: UInt64, newParent: UInt64, flags: UInt32, name: UnsafeRawBufferPointer, newName: UnsafeRawBufferPointer
    ) {
        self.parent = parent
        self.newParent = newParent
        self.flags = flags
        self.name = name
        self.newName = newName
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(parent)
        writer.write(newParent)
        writer.write(flags)
        writer.write(counted: name)
        writer.write(counted: newName)
    }

    public init?(from reader: inout WireReader) {
        parent = reader.read()
        newParent = reader.read()
        flags = reader.read()
        name = reader.readCounted(max: StorageLimit.name_max)
        newName = reader.readCounted(max: StorageLimit.name_max)
        if !reader.isValid { return nil }
    }
}

/// The inode numbers of what was renamed, and of what the new name led to before (0: nothing, or the same).
public struct StorageProcessorRenamed: WireMessage, Equatable {
    public var moved: UInt64
    public var replaced: UInt64

    public init(moved: UInt64, replaced: UInt64) {
        self.moved = moved
        self.replaced = replaced
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(moved)
        writer.write(replaced)
    }

    public init?(from reader: inout WireReader) {
        moved = reader.read()
        replaced = reader.read()
        if !reader.isValid { return nil }
    }
}

/// An extended attribute of a node (xattr(7)): `getExtended` (answered by the value's bytes), `setExtended` (with
/// `value` and the flags of setxattr(2)), `removeExtended`.
public struct ProcessorStorageExtended: WireMessage, @unchecked Sendable {
    public var node: UInt64
    public var flags: UInt32
    public var name: UnsafeRawBufferPointer
    public var value: UnsafeRawBufferPointer

    public init(
        node: UInt64, flags: UInt32 = 0, name: UnsafeRawBufferPointer,
        value: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0)
    ) {
        self.node = node
        self.flags = flags
        self.name = name
        self.value = value
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(node)
        writer.write(flags)
        writer.write(counted: name)
        writer.write(counted: value)
    }

    public init?(from reader: inout WireReader) {
        node = reader.read()
        flags = reader.read()
        name = reader.readCounted(max: StorageLimit.name_max)
        value = reader.readCounted(max: StorageLimit.answerBytes_max)
        if !reader.isValid { return nil }
    }
}
