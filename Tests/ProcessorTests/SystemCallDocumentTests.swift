import Glibc
import Testing

@testable import ProcessorService

/// docs/SYSCALLS.md says what the filter does.
@Suite struct SystemCallDocumentTests {
    private struct Row {
        var number: UInt32
        var name: String
        var kind: String
        var text: String
    }

    /// This file is Tests/ProcessorTests/NAME in the project.
    private static let document =
        String(#filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/"))
        + "/docs/SYSCALLS.md"

    private func rows() throws -> [Row] {
        let text = String(decoding: try CapturePrograms.read(Self.document), as: UTF8.self)
        return text.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: "|", omittingEmptySubsequences: false).map { field in
                String(field.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
            }
            guard fields.count >= 6, let number = UInt32(fields[1]) else { return nil }
            return Row(number: number, name: fields[2], kind: fields[3], text: fields[4])
        }
    }

    @Test func everyCallHasTheClassThatTheFilterGivesIt() throws {
        let rows = try rows()
        let numbers = Set(rows.map(\.number))
        #expect(numbers.count == rows.count, "a number has two rows")
        #expect(numbers.isSuperset(of: 0...334) && numbers.isSuperset(of: 424...469), "a call of Linux 6.18 has no row")
        for row in rows {
            let verdict = try #require(FilterInterpreter.evaluate(FilterInterpreter.Call(number: row.number)))
            let isNative = verdict.isConstant && verdict.action == FilterInterpreter.allow
            switch row.kind {
            case "native", "refused": #expect(isNative, "\(row.name) is not left to the kernel")
            case "trapped", "virtualised": #expect(!isNative, "\(row.name) is not trapped")
            default: Issue.record("\(row.name) has the class '\(row.kind)', which does not exist")
            }
            if row.kind != "native" { #expect(!row.text.isEmpty, "nothing is said about \(row.name)") }
        }
        // What the filter traps has a row.
        for number in UInt32(0)..<1000 where !numbers.contains(number) {
            #expect(FilterInterpreter.evaluate(FilterInterpreter.Call(number: number))?.isConstant == true)
        }
    }

    @Test func numbersAreThoseOfTheKernelHeaders() throws {
        let header = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"
        let text = String(decoding: try CapturePrograms.read(header), as: UTF8.self)
        let names = Dictionary(uniqueKeysWithValues: try rows().map { ($0.number, $0.name) })
        var compared = 0
        for line in text.split(separator: "\n") where line.hasPrefix("#define __NR_") {
            let words = line.split(separator: " ")
            guard words.count == 3, let number = UInt32(words[2]) else { continue }
            #expect(names[number] == String(words[1].dropFirst(5)))
            compared += 1
        }
        #expect(compared > 300)
    }
}
