import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.common.utils.internals.Exit;

/**
 * Runs Kafka's command-line tools one after the other in one process, since each start of a Java
 * machine takes longer than most tools do.
 *
 * <p>A line of standard input is a name, a class and its arguments, separated by tabs; an argument
 * {@code <TEXT} is what the tool reads, where {@code \n} ends a line. Prints {@code ## NAME}, what
 * the tool printed, and {@code exit CODE}.
 */
public final class Tools {
    private static final long SECONDS_MAX = 40;

    /** Thrown where a tool would end the process. */
    private static final class Ended extends RuntimeException {
        Ended() {
            super("ended", null, false, false);
        }
    }

    /** The code with which the tool that runs ended, once it did. */
    private static final AtomicReference<Integer> first = new AtomicReference<>();

    public static void main(String[] arguments) throws Exception {
        Exit.setExitProcedure((code, message) -> end(code));
        Exit.setHaltProcedure((code, message) -> end(code));
        PrintStream out = System.out;
        var lines = new BufferedReader(new InputStreamReader(System.in)).lines().toList();
        for (String line : lines) {
            List<String> words = Arrays.asList(line.split("\t"));
            long began = System.nanoTime();
            out.println("## " + words.get(0));
            out.println(run(words.get(1), words.subList(2, words.size())));
            out.flush();
            System.err.println((System.nanoTime() - began) / 1_000_000 + " ms: " + words.get(0));
        }
        Runtime.getRuntime().halt(0);
    }

    /** Some tools catch what ends them, and would end with another code: the first one counts. */
    private static void end(int code) {
        first.compareAndSet(null, code);
        throw new Ended();
    }

    private static String run(String tool, List<String> words) throws Exception {
        StringBuilder input = new StringBuilder();
        words.stream().filter(word -> word.startsWith("<"))
                .forEach(word -> input.append(word.substring(1).replace("\\n", "\n")));
        String[] arguments = words.stream().filter(word -> !word.startsWith("<"))
                .toArray(String[]::new);
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        PrintStream out = System.out;
        PrintStream errors = System.err;
        PrintStream caught = new PrintStream(printed, true);
        System.setIn(new ByteArrayInputStream(input.toString().getBytes()));
        System.setOut(caught);
        System.setErr(caught);
        String ended;
        first.set(null);
        var thread = Executors.newSingleThreadExecutor(work -> {
            Thread made = new Thread(work);
            made.setDaemon(true);
            return made;
        });
        try {
            Future<Integer> code = thread.submit(() -> call(tool, arguments));
            int last = code.get(SECONDS_MAX, TimeUnit.SECONDS);
            ended = "exit " + (first.get() == null ? last : first.get());
        } catch (java.util.concurrent.TimeoutException late) {
            ended = "did not end";
        } finally {
            System.setOut(out);
            System.setErr(errors);
            thread.shutdownNow();
        }
        return printed + ended;
    }

    private static int call(String tool, String[] arguments) throws Exception {
        try {
            Class.forName(tool).getMethod("main", String[].class)
                    .invoke(null, (Object) arguments);
            return 0;
        } catch (InvocationTargetException thrown) {
            if (!(thrown.getCause() instanceof Ended)) {
                System.out.println(thrown.getCause());
            }
            return 1;
        }
    }
}
