import Foundation
import Glibc
import Kernel
import Synchronization
import Testing

@testable import ManagementAPI

/// The client of the manager's HTTP API against answers of every kind.
@Suite(.serialized)
struct ClientTests {
    /// What a client makes of one raw answer.
    private func answer(_ raw: String, _ body: (ManagementClient) throws -> Void) throws {
        try LocalServer.with({ connection in
            guard connection.readRequest() != nil else { return }
            connection.write(Array(raw.utf8))
        }) { try body(ManagementClient(address: $0.address)) }
    }

    private let status =
        #"{"components":[{"name":"m","kind":"memory","health":"lost","capacityBytes":1,"usedBytes":2}]}"#
    private let decoded = RackStatus(components: [
        .init(name: "m", kind: "memory", health: "lost", capacityBytes: 1, usedBytes: 2)
    ])

    private func expectStatus(_ client: ManagementClient, location: SourceLocation = #_sourceLocation) throws {
        let status = try client.status()
        #expect(status == decoded, sourceLocation: location)
    }

    @Test func answersWithALengthOrInChunksOrUntilTheEnd() throws {
        let head = "HTTP/1.1 200 OK\r\n"
        try answer("\(head)content-length: \(status.utf8.count)\r\n\r\n\(status)") { client in try expectStatus(client)
        }
        let half = status.utf8.count / 2
        let chunks =
            "\(String(half, radix: 16))\r\n\(status.prefix(half))\r\n"
            + "\(String(status.utf8.count - half, radix: 16));x=y\r\n\(status.dropFirst(half))\r\n0\r\n\r\n"
        try answer("\(head)Transfer-Encoding: chunked\r\n\r\n\(chunks)") { client in try expectStatus(client) }
        try answer("\(head)\r\n\(status)") { client in try expectStatus(client) }
        try answer("HTTP/1.1 100 Continue\r\n\r\n\(head)Content-Length: \(status.utf8.count)\r\n\r\n\(status)") {
            client in
            try expectStatus(client)
        }
    }

    @Test func requestsAreWhatTheServerExpects() throws {
        let seen = Mutex<[(line: String, body: [UInt8])]>([])
        try LocalServer.with({ connection in
            guard let request = connection.readRequest() else { return }
            seen.withLock { $0.append(request) }
            if request.line.hasPrefix("GET /v1/programs?") || request.line == "GET /v1/programs HTTP/1.1" {
                connection.respond(200, "[]")
            } else {
                connection.write(Array("HTTP/1.1 204 No Content\r\n\r\n".utf8))
            }
        }) { server in
            let client = try ManagementClient(address: server.address)
            #expect(try client.programs(all: true).isEmpty)
            #expect(try client.programs(all: false).isEmpty)
            try client.signal(7, 15)
            try client.killComponent("memory0")
        }
        let lines = seen.withLock { $0.map(\.line) }
        #expect(
            lines == [
                "GET /v1/programs?all=true HTTP/1.1", "GET /v1/programs HTTP/1.1",
                "POST /v1/programs/7/signal HTTP/1.1", "POST /v1/components/memory0/kill HTTP/1.1",
            ])
        #expect(seen.withLock { String(decoding: $0[2].body, as: UTF8.self) } == #"{"signal":15}"#)
    }

    @Test func refusalsCarryTheManagersLineAndTheExitStatus() throws {
        let body = #"{"reason":"no such program","exitStatus":127}"#
        try answer("HTTP/1.1 404 Not Found\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)") { client in
            let expected = ManagementError.refused(
                status: 404, failure: APIFailure(reason: "no such program", exitStatus: 127))
            #expect(throws: expected) { _ = try client.program(4711) }
            #expect("\(expected)" == "no such program")
        }
        try answer("HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno") { client in
            #expect {
                _ = try client.status()
            } throws: { "\($0)" == "the manager at \(client.address) answers with status 500" }
        }
    }

    @Test(arguments: [
        "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ])
    func whatIsNoManagerIsSaid(_ raw: String) throws {
        try answer(raw) { client in
            #expect {
                _ = try client.status()
            } throws: { "\($0)".hasPrefix("what answers at \(client.address) is no manager of a rack: ") }
        }
    }

    @Test func aConnectionThatBreaksIsSaid() throws {
        for raw in ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "HTTP/1.1 200"] {
            try answer(raw) { client in
                let expected = ManagementError.unreachable(address: client.address, reason: "it closed the connection")
                #expect(throws: expected) { _ = try client.status() }
            }
        }
    }

    @Test func nobodyListens() throws {
        let server = try LocalServer { _ in }
        server.stop()
        let client = try ManagementClient(address: server.address)
        let expected = ManagementError.unreachable(address: server.address, reason: "connection refused")
        #expect(throws: expected) { _ = try client.status() }
        #expect("\(expected)" == "cannot reach the manager at \(server.address): connection refused")
    }

    @Test func aManagerThatDoesNotAnswerIsGivenUp() throws {
        // A listener that nobody accepts from: the kernel connects, and nothing ever answers.
        let server = try LocalServer { connection in _ = connection.read(1 << 20) }
        defer { server.stop() }
        let exchange = try #require(HTTPExchange(address: server.address))
        let expected = ManagementError.unreachable(address: server.address, reason: "it does not answer")
        #expect(throws: expected) {
            _ = try exchange.perform("GET", "/", until: .after(.milliseconds(100)))
        }
    }

    @Test(arguments: ["", "host", ":1", "host:99999", "a b:1", "u@h:1", "h/x:1"])
    func whatIsNoAddress(_ text: String) {
        #expect(throws: ManagementError.badAddress(text)) { _ = try ManagementClient(address: text) }
    }

    /// However the bytes are cut into pieces, the response is the same.
    @Test func responsesInAnyPieces() throws {
        let raw = Array(
            "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".utf8)
        for cut in 1..<raw.count {
            var parser = HTTPResponseParser()
            let first = try parser.append(raw[..<cut])
            let response = try first ?? parser.append(raw[cut...])
            #expect(response == HTTPExchange.Response(status: 201, body: Array("abcde".utf8)), "cut at \(cut)")
        }
    }
}
