import Foundation
import Glibc
import ManagementAPI
import Testing

@testable import ManagerService

/// The API as bytes on a connection, above all those that no client of ours would send.
@Suite(.serialized) struct HTTPTests {
    private struct Answer {
        var status: Int
        var head: String
        var reason: String?
        var exitStatus: Int?
    }

    private func ask(
        _ lab: ManagerLab, _ line: String, headers: [String: String] = [:], body: [UInt8]? = nil
    ) async throws -> Answer {
        var all = ["Host": lab.api, "Connection": "close"]
        if let body { all.merge(["Content-Type": "application/json", "Content-Length": "\(body.count)"]) { $1 } }
        all.merge(headers) { $1 }
        let head = all.map { "\($0): \($1)\r\n" }.joined()
        let text = try await exchange(lab.api, "\(line) HTTP/1.1\r\n\(head)\r\n", body: body ?? [])
        let parts = text.components(separatedBy: "\r\n\r\n")
        let failure = try? JSONDecoder().decode(APIFailure.self, from: Data(parts.dropFirst().joined().utf8))
        let status = Int(text.split(separator: " ").dropFirst().first ?? "") ?? 0
        return Answer(status: status, head: parts[0], reason: failure?.reason, exitStatus: failure?.exitStatus)
    }

    @Test func refusalsAreJSONWithOneLine() async throws {
        try await ManagerLab.run { lab in
            let cases: [(line: String, body: String?, status: Int)] = [
                ("GET /nope", nil, 404), ("GET /v1/programs/x", nil, 404), ("GET /v1/programs/1", nil, 404),
                ("DELETE /v1/programs", nil, 405), ("GET /v1/programs/1/wait?seconds=99", nil, 400),
                ("POST /v1/programs", "", 400), ("POST /v1/programs", "{", 400), ("POST /v1/programs", "[]", 400),
                ("POST /v1/programs", "{}", 400), ("POST /v1/programs", "{\"arguments\":7}", 400),
                ("POST /v1/programs", "\u{0}\u{1}", 400), ("POST /v1/programs/1/signal", "{\"signal\":\"TERM\"}", 400),
                ("POST /v1/programs/1/signal", "{\"signal\":15}", 404),
                ("POST /v1/components/%2e%2e/kill", nil, geteuid() == 0 ? 404 : 403),
                ("GET /v1/fabric/measure?from=a", nil, 400),
                ("GET /v1/fabric/measure?from=manager&to=nobody", nil, geteuid() == 0 ? 404 : 403),
                ("POST /v1/fabric/model", "{\"from\":\"a\",\"to\":\"b\",\"model\":\"x\"}", geteuid() == 0 ? 422 : 403),
                (
                    "POST /v1/fabric/model", "{\"from\":\"a\",\"to\":\"a\",\"model\":\"hdr\"}",
                    geteuid() == 0 ? 422 : 403
                ),
                (
                    "POST /v1/fabric/model", "{\"from\":\"a\",\"to\":\"manager\",\"model\":\"hdr\"}",
                    geteuid() == 0 ? 404 : 403
                ),
            ]
            for (line, body, status) in cases {
                let answer = try await ask(lab, line, body: body.map { Array($0.utf8) })
                #expect(answer.status == status, "\(line) \(body ?? "")")
                #expect(answer.head.lowercased().contains("content-type: application/json"), "\(line)")
                let reason = try #require(answer.reason, "\(line) \(body ?? "")")
                #expect(!reason.isEmpty && !reason.contains("\n"))
            }
        }
    }

    @Test func theTextNamesTheKey() async throws {
        try await ManagerLab.run { lab in
            let missing = try await ask(lab, "POST /v1/programs", body: Array("{\"arguments\":[\"a\"]}".utf8))
            #expect(missing.reason == "the body is not understood: key 'environment' is missing")
            let wrong = try await ask(lab, "POST /v1/programs", body: Array("{\"arguments\":\"a\"}".utf8))
            #expect(wrong.reason?.hasPrefix("the body is not understood: key 'arguments' must be of type") == true)
            let nothing = try await ask(lab, "POST /v1/programs", body: Array("?".utf8))
            #expect(nothing.reason == "the body is not understood: it is not JSON")
        }
    }

    @Test func aWrongMethodIsToldTheRightOnes() async throws {
        try await ManagerLab.run { lab in
            let answer = try await ask(lab, "PUT /v1/programs")
            #expect(answer.status == 405 && answer.head.lowercased().contains("allow: get, post"))
        }
    }

    @Test func bodiesAreBoundedAndOfOneKind() async throws {
        try await ManagerLab.run { lab in
            let large = [UInt8](repeating: 0x20, count: APIResponder.body_max + 1)
            let tooLarge = try await ask(lab, "POST /v1/programs", body: large)
            #expect(tooLarge.status == 413 && tooLarge.reason != nil)
            let form = try await ask(
                lab, "POST /v1/programs", headers: ["Content-Type": "application/x-www-form-urlencoded"],
                body: Array("arguments=a".utf8))
            #expect(form.status == 415)
        }
    }

    /// What a web page in a user's browser could cause to be sent.
    @Test func browsersAreRefused() async throws {
        try await ManagerLab.run { lab in
            for headers in [
                ["Origin": "http://evil.example"], ["Origin": "null"], ["Host": "evil.example"],
                ["Host": "evil.example:80"], ["Host": ""],
            ] {
                let answer = try await ask(lab, "GET /v1/status", headers: headers)
                #expect(answer.status == 403, "\(headers)")
            }
            for host in ["localhost", "localhost:1", "127.0.0.1", "[::1]:5", "[::1]"] {
                let answer = try await ask(lab, "GET /v1/status", headers: ["Host": host])
                #expect(answer.status == 200, "\(host)")
            }
        }
    }

    @Test func garbageDoesNotHarm() async throws {
        try await ManagerLab.run { lab in
            for garbage in [
                "\u{16}\u{3}\u{1}\u{2}", "GET\r\n\r\n", String(repeating: "A", count: 200_000), "\r\n\r\n\r\n",
            ] {
                _ = try await exchange(lab.api, garbage + "\r\n\r\n", hangsUp: true)
            }
            #expect(try await ask(lab, "GET /v1/status").status == 200)
        }
    }

    @Test func aPortInUseIsOneLine() async throws {
        try await ManagerLab.run { lab in
            let port = UInt16(lab.api.split(separator: ":").last ?? "") ?? 0
            let failure = try await blocking { () -> String in
                let server = APIServer(
                    responder: APIResponder(control: lab.control, users: LabUsers(), logger: ManagerLab.quiet),
                    logger: ManagerLab.quiet)
                do {
                    _ = try server.start(on: .init(host: "127.0.0.1", port: port))
                    server.stop()
                    return "it listens"
                } catch {
                    return "\(error)"
                }
            }
            #expect(failure == "cannot listen for the HTTP API on 127.0.0.1:\(port): Address already in use")
        }
    }
}
