// Processors speak to storage components: nodes (whatever a name in the tree leads to) and their names. Names and link
// targets are bytes, not texts: Linux allows any but '/' and NUL.
//
// A structure that holds bytes holds them in place: it is valid as long as the buffer that it was decoded from.

/// What stat(2) tells about a node, in the storage component's numbers.
public struct StorageAttributes: WireMessage, Equatable {
    public static let encodedSize = 92

    /// Unique within the export.
    public var inode: UInt64 = 0
    public var size: UInt64 = 0
    /// Of 512 bytes.
    public var blocks: UInt64 = 0
    public var accessSeconds: Int64 = 0
    public var modifySeconds: Int64 = 0
    public var changeSeconds: Int64 = 0
    public var accessNanoseconds: UInt32 = 0
    public var modifyNanoseconds: UInt32 = 0
    public var changeNanoseconds: UInt32 = 0
    /// Type and permissions, as `st_mode`.
    public var mode: UInt32 = 0
    public var links: UInt32 = 0
    public var user: UInt32 = 0
    public var group: UInt32 = 0
    /// The device that a device node stands for.
    public var special: UInt32 = 0
    public var blockBytes: UInt32 = 0
    /// When the inode was made, in nanoseconds since 1970; 0 when the file system does not tell. With the inode number
    /// it tells a file from one that got its number later.
    public var birth: UInt64 = 0

    public init() {}

    public func encode(into writer: inout WireWriter) {
        writer.write(inode)
        writer.write(size)
        writer.write(blocks)
        writer.write(accessSeconds)
        writer.write(modifySeconds)
        writer.write(changeSeconds)
        writer.write(accessNanoseconds)
        writer.write(modifyNanoseconds)
        writer.write(changeNanoseconds)
        writer.write(mode)
        writer.write(links)
        writer.write(user)
        writer.write(group)
        writer.write(special)
        writer.write(blockBytes)
        writer.write(birth)
    }

    public init?(from reader: inout WireReader) {
        inode = reader.read()
        size = reader.read()
        blocks = reader.read()
        accessSeconds = reader.read()
        modifySeconds = reader.read()
        changeSeconds = reader.read()
        accessNanoseconds = reader.read()
        modifyNanoseconds = reader.read()
        changeNanoseconds = reader.read()
        mode = reader.read()
        links = reader.read()
        user = reader.read()
        group = reader.read()
        special = reader.read()
        blockBytes = reader.read()
        birth = reader.read()
        if !reader.isValid { return nil }
    }
}

/// A node and the handle by which the client names it from now on. Each entry that is answered counts as one reference,
/// which the client gives back with `forget`.
public struct StorageEntry: WireMessage, Equatable {
    public static let encodedSize = 8 + StorageAttributes.encodedSize
    public var node: UInt64
    public var attributes: StorageAttributes

    public init(node: UInt64, attributes: StorageAttributes) {
        self.node = node
        self.attributes = attributes
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(node)
        attributes.encode(into: &writer)
    }

    public init?(from reader: inout WireReader) {
        node = reader.read()
        guard let attributes = StorageAttributes(from: &reader) else { return nil }
        self.attributes = attributes
    }
}

/// Asks for the root. Answered by a `StorageEntry`, whose reference is not counted; EPROTO when the component speaks
/// another version. May be repeated.
public struct ProcessorStorageAttach: WireMessage, Equatable {
    public var version: UInt32

    public init(version: UInt32 = StorageLimit.version) { self.version = version }
    public func encode(into writer: inout WireWriter) { writer.write(version) }
    public init?(from reader: inout WireReader) {
        version = reader.read()
        if !reader.isValid { return nil }
    }
}

/// `getAttributes` (answered by `StorageAttributes`), `readLink` (the target's bytes), `listExtended` (names, each with
/// its NUL), `fileSystemStatus` (`StorageFileSystemStatus`).
public struct ProcessorStorageNode: WireMessage, Equatable {
    public var node: UInt64

    public init(node: UInt64) { self.node = node }
    public func encode(into writer: inout WireWriter) { writer.write(node) }
    public init?(from reader: inout WireReader) {
        node = reader.read()
        if !reader.isValid { return nil }
    }
}

/// An entry of a directory: `lookUp` and `lookUpOpen` (answered by `StorageEntry`), `unlink` and `removeDirectory` (answered by
/// `StorageProcessorCount`: the inode number of what the name led to).
public struct ProcessorStorageName: WireMessage, @unchecked Sendable {
    public var parent: UInt64
    public var name: UnsafeRawBufferPointer

    public init(parent: UInt64, name: UnsafeRawBufferPointer) {
        self.parent = parent
        self.name = name
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(parent)
        writer.write(counted: name)
    }

    public init?(from reader: inout WireReader) {
        parent = reader.read()
        name = reader.readCounted(max: StorageLimit.name_max)
        if !reader.isValid { return nil }
    }
}

/// Names whose present state is asked for (`review`).
public struct ProcessorStorageNames: WireMessage, Equatable {
    public struct Item: Equatable, Sendable {
        public var parent: UInt64
        /// Empty: the node `parent` itself.
        public var name: [UInt8]

        public init(parent: UInt64, name: [UInt8]) {
            self.parent = parent
            self.name = name
        }
    }
    public var items: [Item]

    public init(items: [Item]) { self.items = items }

    public func encode(into writer: inout WireWriter) {
        writer.write(UInt32(truncatingIfNeeded: items.count))
        for item in items {
            writer.write(item.parent)
            item.name.withUnsafeBytes { writer.write(counted: $0) }
        }
    }

    public init?(from reader: inout WireReader) {
        let count = Int(reader.read(UInt32.self))
        if count > StorageLimit.reviewed_max { return nil }
        items = []
        items.reserveCapacity(count)
        for _ in 0..<count {
            let parent: UInt64 = reader.read()
            items.append(Item(parent: parent, name: Array(reader.readCounted(max: StorageLimit.name_max))))
        }
        if !reader.isValid { return nil }
    }
}

/// What each of the names leads to, in their order.
public struct StorageProcessorStates: WireMessage, Equatable {
    public struct State: Equatable, Sendable {
        /// 0, or the error number of a look-up.
        public var error: UInt32
        public var attributes: StorageAttributes

        public init(error: UInt32, attributes: StorageAttributes = StorageAttributes()) {
            self.error = error
            self.attributes = attributes
        }
    }
    public var states: [State]

    public init(states: [State]) { self.states = states }

    public func encode(into writer: inout WireWriter) {
        writer.write(UInt32(truncatingIfNeeded: states.count))
        for state in states {
            writer.write(state.error)
            if state.error == 0 { state.attributes.encode(into: &writer) }
        }
    }

    public init?(from reader: inout WireReader) {
        let count = Int(reader.read(UInt32.self))
        if count > StorageLimit.reviewed_max { return nil }
        states = []
        states.reserveCapacity(count)
        for _ in 0..<count {
            let error: UInt32 = reader.read()
            if error != 0 {
                states.append(State(error: error))
                continue
            }
            guard let attributes = StorageAttributes(from: &reader) else { return nil }
            states.append(State(error: 0, attributes: attributes))
        }
        if !reader.isValid { return nil }
    }
}

/// Gives references to nodes back, and releases files. Answered by `StorageNothing`.
public struct ProcessorStorageForget: WireMessage, Equatable {
    public struct Item: Equatable, Sendable {
        public var node: UInt64
        public var references: UInt64
        public init(node: UInt64, references: UInt64) {
            self.node = node
            self.references = references
        }
    }
    public var items: [Item]
    public var files: [UInt64]

    public init(items: [Item], files: [UInt64] = []) {
        self.items = items
        self.files = files
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(UInt32(truncatingIfNeeded: items.count))
        for item in items {
            writer.write(item.node)
            writer.write(item.references)
        }
        writer.write(UInt32(truncatingIfNeeded: files.count))
        for file in files { writer.write(file) }
    }

    public init?(from reader: inout WireReader) {
        let count = Int(reader.read(UInt32.self))
        if count > StorageLimit.forgotten_max { return nil }
        items = []
        items.reserveCapacity(count)
        for _ in 0..<count { items.append(Item(node: reader.read(), references: reader.read())) }
        let fileCount = Int(reader.read(UInt32.self))
        if fileCount > StorageLimit.forgotten_max { return nil }
        files = []
        files.reserveCapacity(fileCount)
        for _ in 0..<fileCount { files.append(reader.read()) }
        if !reader.isValid { return nil }
    }
}

/// A message without fields.
public struct StorageNothing: WireMessage, Equatable {
    public init() {}
    public func encode(into writer: inout WireWriter) {}
    public init?(from reader: inout WireReader) {}
}

/// Changes what `fields` names. Answered by `StorageAttributes`.
public struct ProcessorStorageSetAttributes: WireMessage, Equatable {
    public struct Fields: OptionSet, Sendable, Equatable {
        public let rawValue: UInt32
        public init(rawValue: UInt32) { self.rawValue = rawValue }
        public static let mode = Fields(rawValue: 1)
        public static let user = Fields(rawValue: 2)
        public static let group = Fields(rawValue: 4)
        public static let size = Fields(rawValue: 8)
        /// To the seconds and nanoseconds given.
        public static let accessTime = Fields(rawValue: 16)
        public static let modifyTime = Fields(rawValue: 32)
        /// To the storage component's clock.
        public static let accessTimeNow = Fields(rawValue: 64)
        public static let modifyTimeNow = Fields(rawValue: 128)
        /// With `size`: as `clearsSetID` of a write.
        public static let clearsSetID = Fields(rawValue: 256)
    }
    public var node: UInt64
    public var fields: Fields
    public var mode: UInt32 = 0
    public var user: UInt32 = 0
    public var group: UInt32 = 0
    public var size: UInt64 = 0
    public var accessSeconds: Int64 = 0
    public var modifySeconds: Int64 = 0
    public var accessNanoseconds: UInt32 = 0
    public var modifyNanoseconds: UInt32 = 0

    public init(node: UInt64, fields: Fields) {
        self.node = node
        self.fields = fields
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(node)
        writer.write(fields.rawValue)
        writer.write(mode)
        writer.write(user)
        writer.write(group)
        writer.write(size)
        writer.write(accessSeconds)
        writer.write(modifySeconds)
        writer.write(accessNanoseconds)
        writer.write(modifyNanoseconds)
    }

    public init?(from reader: inout WireReader) {
        node = reader.read()
        fields = Fields(rawValue: reader.read())
        mode = reader.read()
        user = reader.read()
        group = reader.read()
        size = reader.read()
        accessSeconds = reader.read()
        modifySeconds = reader.read()
        accessNanoseconds = reader.read()
        modifyNanoseconds = reader.read()
        let nanoseconds_max: UInt32 = 999_999_999
        if !reader.isValid || fields.rawValue > 511 || size > UInt64(Int64.max)
            || accessNanoseconds > nanoseconds_max || modifyNanoseconds > nanoseconds_max
        {
            return nil
        }
    }
}

/// What statfs(2) tells.
public struct StorageFileSystemStatus: WireMessage, Equatable {
    public var blockBytes: UInt64 = 0
    public var blocks: UInt64 = 0
    public var blocksFree: UInt64 = 0
    public var blocksAvailable: UInt64 = 0
    public var inodes: UInt64 = 0
    public var inodesFree: UInt64 = 0

    public init() {}

    public func encode(into writer: inout WireWriter) {
        writer.write(blockBytes)
        writer.write(blocks)
        writer.write(blocksFree)
        writer.write(blocksAvailable)
        writer.write(inodes)
        writer.write(inodesFree)
    }

    public init?(from reader: inout WireReader) {
        blockBytes = reader.read()
        blocks = reader.read()
        blocksFree = reader.read()
        blocksAvailable = reader.read()
        inodes = reader.read()
        inodesFree = reader.read()
        if !reader.isValid { return nil }
    }
}
