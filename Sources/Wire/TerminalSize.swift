/// The size of a terminal's window in characters; 0 by 0 where nobody knows it.
public struct TerminalSize: WireMessage, Codable, Equatable, Sendable {
    public var rows: UInt16
    public var columns: UInt16

    public init(rows: UInt16, columns: UInt16) {
        self.rows = rows
        self.columns = columns
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(rows)
        writer.write(columns)
    }

    public init?(from reader: inout WireReader) {
        rows = reader.read()
        columns = reader.read()
        if !reader.isValid { return nil }
    }
}

extension WireWriter {
    /// A byte that says whether there is a terminal, and its size.
    mutating func write(_ terminal: TerminalSize?) {
        write(terminal != nil)
        (terminal ?? TerminalSize(rows: 0, columns: 0)).encode(into: &self)
    }
}

extension WireReader {
    mutating func readTerminal() -> TerminalSize? {
        let isThere = readBool()
        let size = TerminalSize(from: &self)
        if isThere { return size }
        // One way to say that there is none.
        if size != TerminalSize(rows: 0, columns: 0) { invalidate() }
        return nil
    }
}
