import ConfigurationFiles
import FoundationEssentials
import Glibc
import RackConfiguration

/// Reads the configuration file of a rack for legoctl, and prints a `ConfigurationReport`.
///
/// It is a process of its own because of the TOML library, which brings Foundation along: to load that takes longer than
/// most of legoctl's commands do, and only `rack up --config` needs it.
@main
enum Main {
    private static let usage = """
        usage: lego-config FILE
        Reads and checks the configuration of a rack, and prints what it sets, or why it is refused, as JSON. For legoctl.

        """

    static func main() throws {
        let words = CommandLine.arguments.dropFirst()
        guard let path = words.first, words.count == 1, path != "--help" else {
            let isAsked = words.first == "--help"
            usage.withCString { text in _ = write(isAsked ? 1 : 2, text, strlen(text)) }
            exit(isAsked ? 0 : 64)
        }
        alarm(ConfigurationReport.seconds_max)
        let report: ConfigurationReport
        do {
            report = .settings(try ConfigurationFile(path: path, schema: RackKeys.schema).settings)
        } catch {
            report = .refused(error)
        }
        print(String(decoding: try JSONEncoder().encode(report), as: UTF8.self))
    }
}
