import edu.stanford.nlp.ling.CoreAnnotations.TextAnnotation;
import edu.stanford.nlp.ling.CoreLabel;
import edu.stanford.nlp.process.CoreLabelTokenFactory;
import edu.stanford.nlp.process.PTBTokenizer;
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.util.Locale;

/** Prints the tokens of each line of the input twice: with a line after it, and at the end of a file. */
public class Cut {
  static String tokens(String text) {
    PTBTokenizer<CoreLabel> tokenizer =
        new PTBTokenizer<>(new StringReader(text), new CoreLabelTokenFactory(), "tokenizeNLs");
    StringBuilder found = new StringBuilder();
    while (tokenizer.hasNext()) {
      String token = tokenizer.next().get(TextAnnotation.class);
      if (PTBTokenizer.getNewlineToken().equals(token)) break;
      if (found.length() > 0) found.append(' ');
      found.append(token.toLowerCase(Locale.ENGLISH));
    }
    return found.toString();
  }

  public static void main(String[] arguments) throws IOException {
    java.util.logging.LogManager.getLogManager().reset();
    Reader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    PrintStream out = new PrintStream(new BufferedOutputStream(System.out), false, "UTF-8");
    StringBuilder line = new StringBuilder();
    for (int unit = in.read(); unit != -1; unit = in.read()) {
      if (unit != '\n') {
        line.append((char) unit);
        continue;
      }
      out.print(tokens(line + "\nplain words\n") + "\n" + tokens(line.toString()) + "\n");
      line.setLength(0);
    }
    out.flush();
  }
}
