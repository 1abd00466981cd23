r"""Parse the text of an answer to a syntax tree. The time is linear in the length of the text.

The grammar keeps what a computer algebra system would evaluate or drop on the way: letter case,
derivatives, both sides of an equation, the order of a tuple, operators that are not evaluated.
A text that is not in the grammar as a whole is unreadable; no part of it is taken for the answer.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Final

from services.reward.formulas.nodes import (
    MINUS_ONE,
    Builder,
    Call,
    Congruence,
    Constant,
    EitherSign,
    Junction,
    Matrix,
    NamedSet,
    Node,
    Number,
    Power,
    Product,
    Relation,
    Sequence,
    SetOperation,
    Sum,
    Symbol,
    UnreadableError,
    divide,
    negate,
)
from services.reward.formulas.tokens import Token, check_balance, tokenize

_RELATIONS: Final = {
    "=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\in": "in", r"\approx": "~",
}  # fmt: skip
_SET_OPERATORS: Final = {r"\cup": "union", r"\cap": "intersection", r"\setminus": "difference"}
_JUNCTIONS: Final = {r"\lor": "or", r"\land": "and"}
_MULTIPLIED: Final = frozenset({r"\cdot", r"\times", "*"})
_CLOSING: Final = {"(": (")", "]"), "[": ("]", ")"), r"\{": (r"\}",)}
_CONSTANTS: Final[dict[str, Node]] = {
    r"\pi": Constant("pi"),
    r"\infty": Constant("infinity"),
    r"\emptyset": NamedSet("empty"),
}
_BLACKBOARD: Final = ("R", "Z", "N", "Q", "C")
_BARS: Final = {r"\lfloor": (r"\rfloor", "floor"), r"\lceil": (r"\rceil", "ceil")}
_ACCENTS: Final = frozenset(
    {r"\vec", r"\hat", r"\bar", r"\tilde", r"\overline", r"\widehat", r"\mathbf", r"\boldsymbol", r"\mathcal",
     r"\mathfrak", r"\mathscr", r"\overset", r"\overleftrightarrow", r"\widetilde"}
)  # fmt: skip
_STYLES: Final = frozenset({r"\mathbf", r"\boldsymbol"})
_FUNCTION_LETTERS: Final = frozenset("fghFGH")
_DERIVED_LETTERS: Final = frozenset("fghFGHyuvwxz")
_POINTED: Final = {r"\angle": "angle", r"\triangle": "triangle", r"\measuredangle": "angle"}
_INVERSES: Final = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_CALLED: Final = frozenset({"gcd", "lcm", "max", "min", "det", "Re", "Im", "arg", "exp"})
_MATRICES: Final = frozenset({"matrix", "pmatrix", "bmatrix", "Bmatrix", "array", "smallmatrix"})
_ENDS: Final = frozenset(
    {")", "]", "}", r"\}", ",", ";", "&", r"\\", r"\rfloor", r"\rceil", r"\lor", r"\land"}
)
OPERATORS: Final = (
    r"\sum", r"\prod", r"\int", r"\iint", r"\iiint", r"\oint", r"\lim", r"\sup", r"\inf", r"\limsup", r"\liminf",
    r"\bigcup", r"\bigcap", r"\frac{d}",
)  # fmt: skip
"""Operators that are kept as text, up to the end of their side; `\frac{d}` is that of a derivative."""


@lru_cache(maxsize=1024)
def parse(text: str) -> Node:
    """Return the tree of a normalised answer; raises UnreadableError."""
    tokens = tokenize(text)
    check_balance(tokens)
    try:
        return _Parser(tokens).parse()
    except RecursionError as error:
        raise UnreadableError("depth") from error


class _Parser:
    """Recursive descent, one method per level of precedence."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._place = 0
        self._bars = 0
        """Open absolute values."""
        self._has_ratios = True
        """Whether a colon is a ratio here; in braces it separates a variable from its condition."""
        self._commands: dict[str, Callable[[], Node]] = {
            r"\frac": self._fraction,
            r"\sqrt": self._root,
            r"\binom": self._binomial,
            r"\{": self._braced,
            r"\mathbb": self._blackboard,
        }

    def parse(self) -> Node:
        node = self._statement()
        if self._next.kind != "end":
            raise UnreadableError(self._next.text)
        return node

    @property
    def _next(self) -> Token:
        return self._tokens[self._place]

    def _ahead(self, count: int) -> Token:
        return self._tokens[min(self._place + count, len(self._tokens) - 1)]

    def _take(self) -> Token:
        token = self._next
        self._place += token.kind != "end"
        return token

    def _accept(self, *texts: str) -> bool:
        if self._next.kind in ("sign", "command") and self._next.text in texts:
            self._place += 1
            return True
        return False

    def _expect(self, *texts: str) -> str:
        token = self._take()
        if token.text not in texts or token.kind not in ("sign", "command"):
            raise UnreadableError(token.text or "end")
        return token.text

    # Statements

    def _statement(self) -> Node:
        """Junctions; `or` binds weaker than `and` and the comma."""
        return self._junction(r"\lor", self._list)

    def _list(self) -> Node:
        """Read a list; with semicolons and commas, a list of lists."""
        groups = [self._commas()]
        while self._accept(";"):
            if self._next.kind == "end":
                break
            groups.append(self._commas())
        if len(groups) == 1:
            return groups[0]
        return Sequence("", tuple(groups))

    def _commas(self) -> Node:
        items = [self._junction(r"\land", self._relation)]
        while self._accept(","):
            if self._next.kind == "end":
                break
            items.append(self._junction(r"\land", self._relation))
        return items[0] if len(items) == 1 else Sequence("", tuple(items))

    def _junction(self, sign: str, parse_item: Callable[[], Node]) -> Node:
        items = [parse_item()]
        while self._accept(sign):
            items.append(parse_item())
        return items[0] if len(items) == 1 else Junction(_JUNCTIONS[sign], tuple(items))

    def _relation(self) -> Node:
        sides, signs = [self._set()], []
        while self._next.kind in ("sign", "command"):
            if self._next.text in _RELATIONS:
                signs.append(_RELATIONS[self._take().text])
            elif self._accept(r"\equiv"):
                signs.append("congruent")
            else:
                break
            sides.append(self._set())
        if (modulus := self._modulus()) is not None:
            if signs not in ([], ["congruent"], ["="]):
                raise UnreadableError(r"\pmod")
            return Congruence(sides[0] if signs else None, sides[-1], modulus)
        if "congruent" in signs:
            raise UnreadableError(r"\equiv")
        return Relation(tuple(sides), tuple(signs)) if signs else sides[0]

    def _modulus(self) -> Node | None:
        if self._accept(r"\pmod"):
            return self._argument()
        if self._next.text == "(" and self._is_modulus(self._ahead(1)):
            self._place += 2
            modulus = self._sum()
            self._expect(")")
            return modulus
        return None

    def _is_modulus(self, token: Token) -> bool:
        return token.text in (r"\pmod", r"\bmod") and token.kind == "command"

    def _set(self) -> Node:
        node = self._sum()
        while self._next.kind == "command" and self._next.text in _SET_OPERATORS:
            operator = _SET_OPERATORS[self._take().text]
            node = SetOperation(operator, node, self._sum())
        if self._has_ratios and self._accept(":"):
            node = divide(node, self._sum())
        return node

    # Expressions

    def _sum(self) -> Node:
        terms: list[Node] = []
        while True:
            sign = self._take().text if self._starts_with_sign() else ""
            if not sign and terms:
                break
            # `- -x` is read, `+ *` is not.
            negative = sign == "-"
            while self._starts_with_sign() and self._next.text in "+-":
                negative ^= self._take().text == "-"
            term = self._term()
            if sign in (r"\pm", r"\mp"):
                term = EitherSign(term, flipped=sign == r"\mp")
            terms.append(negate(term) if negative else term)
        return terms[0] if len(terms) == 1 else Sum(tuple(terms))

    def _starts_with_sign(self) -> bool:
        return (self._next.kind == "sign" and self._next.text in ("+", "-")) or (
            self._next.kind == "command" and self._next.text in (r"\pm", r"\mp")
        )

    def _term(self) -> Node:
        node = self._implicit_product()
        while self._next.kind in ("sign", "command"):
            if self._next.text in _MULTIPLIED:
                crossed = self._take().text == r"\times"
                other = self._signed_product()
                node = _cross(node, other) if crossed else _multiply(node, other)
            elif self._accept("/"):
                node = self._quotient(node)
            elif self._accept(r"\bmod"):
                node = Call("mod", (node, self._signed_product()))
            else:
                break
        return node

    def _signed_product(self) -> Node:
        negative = False
        while self._starts_with_sign() and self._next.text in "+-":
            negative ^= self._take().text == "-"
        node = self._implicit_product()
        return negate(node) if negative else node

    def _quotient(self, above: Node) -> Node:
        r"""Return a quotient: `1/2x` is half of x, but `\\pi/2x` is divided by 2x."""
        if not isinstance(above, Number) or self._next.kind != "number":
            return divide(above, self._signed_product())
        node = divide(above, self._power())
        return Product((node, self._implicit_product())) if self._starts_factor() else node

    def _implicit_product(self) -> Node:
        factors = [self._power()]
        while self._starts_factor():
            mixed = _to_mixed_number(factors[-1], self._next, self._tokens, self._place)
            factor = self._power()
            if mixed:
                factors[-1] = Number(factors[-1].value + factor.value)  # type: ignore[union-attr]
            else:
                factors.append(factor)
        return factors[0] if len(factors) == 1 else Product(tuple(factors))

    def _starts_factor(self) -> bool:
        token = self._next
        if token.kind in ("number", "letter", "function", "text"):
            return True
        if token.kind == "environment":
            return token.text.startswith(r"\begin")
        if token.kind == "sign":
            if token.text == "(":
                return not self._is_modulus(self._ahead(1))
            return token.text in ("{", "[") or (token.text == "|" and self._bars == 0)
        return token.kind == "command" and (
            token.text in _CONSTANTS
            or token.text in _BARS
            or token.text in _ACCENTS
            or token.text in _POINTED
            or token.text in OPERATORS
            or token.text
            in (
                r"\frac",
                r"\sqrt",
                r"\binom",
                r"\mathbb",
                r"\partial",
                r"\{",
                r"\%",
                r"\dot",
                r"\ddot",
            )
        )

    def _power(self) -> Node:
        node = self._primary()
        while True:
            if self._accept("^"):
                node = self._superscripted(node)
            elif self._accept("'", "′"):
                node = _differentiate(node, 1)
            elif self._accept("!"):
                node = Call("factorial", (node,))
            elif self._accept(r"\%"):
                node = divide(node, Number(Fraction(100)))
            elif isinstance(node, Symbol) and self._arguments_follow(node):
                node = Call(node.name, self._arguments())
            else:
                return node

    def _superscripted(self, node: Node) -> Node:
        """Return a node with what follows its `^`: a degree sign, marks of a derivative, an exponent."""
        if self._is_derivative_order(node):
            return _differentiate(node, self._derivative_order())
        if self._accept_prime():
            return _differentiate(node, 1)
        if self._accept_degree():
            return node
        exponent = self._script()
        return _raise(node, exponent, self._arguments_follow(node))

    def _accept_prime(self) -> bool:
        r"""Step over the mark of a derivative, also as `^{\prime}`."""
        if (
            self._next.text == "{"
            and self._ahead(1).text in ("'", r"\prime")
            and self._ahead(2).text == "}"
        ):
            self._place += 3
            return True
        return self._accept("'", r"\prime")

    def _accept_degree(self) -> bool:
        """Step over a degree sign: a number in degrees is compared as its number."""
        if (
            self._next.text == "{"
            and self._ahead(1).text == r"\circ"
            and self._ahead(2).text == "}"
        ):
            self._place += 3
            return True
        return self._accept(r"\circ")

    def _is_derivative_order(self, node: Node) -> bool:
        """Whether `^{(n)}` follows a function."""
        return (
            isinstance(node, Symbol)
            and node.name in _DERIVED_LETTERS
            and self._next.text == "{"
            and self._ahead(1).text == "("
            and self._ahead(2).kind == "number"
            and self._ahead(3).text == ")"
            and self._ahead(4).text == "}"
        )

    def _derivative_order(self) -> int:
        order = int(self._ahead(2).text[:3].rstrip("."))
        self._place += 5
        return order

    def _arguments_follow(self, node: Node) -> bool:
        if not isinstance(node, Symbol) or self._next.text != "(" or self._next.kind != "sign":
            return False
        base = node.name.removeprefix("inverse ").rstrip("'")
        if base in _FUNCTION_LETTERS or node.name.endswith("'"):
            return True
        return self._is_applied(node.name)

    def _is_applied(self, name: str) -> bool:
        """Whether the parenthesis after a letter holds arguments: `P(x) = …` at the start, or `C(5,2)`."""
        depth, has_comma = 0, False
        for offset in range(len(self._tokens) - self._place):
            text = self._ahead(offset).text
            depth += (text == "(") - (text == ")")
            has_comma |= text == "," and depth == 1
            if depth == 0:
                defines = self._place == 1 and offset > 1 and self._ahead(offset + 1).text == "="
                return defines or (has_comma and name.isupper())
        return False

    def _arguments(self) -> tuple[Node, ...]:
        self._expect("(")
        items = [self._set()]
        while self._accept(","):
            items.append(self._set())
        self._expect(")")
        return tuple(items)

    def _script(self) -> Node:
        """Return an exponent: a group, or one signed number, letter or command."""
        if self._accept("{"):
            node = self._sum()
            self._expect("}")
            return node
        if self._accept("-"):
            return negate(self._script())
        node = self._letter(self._take()) if self._next.kind == "letter" else self._primary()
        # Plain text writes towers without braces: `2^3^2` is `2^9`.
        return Power(node, self._script()) if self._accept("^") else node

    def _argument(self) -> Node:
        """Return the argument of a command: a group, or one token, of a number one digit."""
        if self._accept("{"):
            node = self._set()
            self._expect("}")
            return node
        token = self._next
        if token.kind == "number" and len(token.text) > 1 and token.text.isdigit():
            self._tokens[self._place] = Token("number", token.text[1:], tight=True)
            return Number(Fraction(int(token.text[0])))
        if token.kind == "letter":
            return self._letter(self._take())
        return self._primary()

    def _primary(self) -> Node:
        token = self._take()
        if token.kind == "number":
            return self._number(token.text)
        if token.kind == "letter":
            return self._subscripted(self._letter(token))
        if token.kind == "function":
            return self._function(token.text)
        if token.kind == "text":
            return self._subscripted(Symbol(token.text))
        if token.kind == "environment":
            return self._matrix(token.text)
        if token.kind == "sign" and token.text in ("(", "["):
            return self._bracketed(token.text)
        if token.kind == "sign" and token.text == "{":
            node = self._set()
            self._expect("}")
            return node
        if token.text == "|" or token.text == r"\|":
            self._bars += 1
            node = self._sum()
            self._expect(token.text)
            self._bars -= 1
            return Call("abs", (node,))
        return self._command(token)

    def _number(self, text: str) -> Node:
        whole, _, digits = text.partition(".")
        if self._next.tight and self._accept(r"\overline", r"\bar", r"\dot"):
            repeated = self._take().text if self._next.kind == "number" else ""
            if not repeated and self._accept("{"):
                repeated = self._take().text
                self._expect("}")
            if not repeated.isdigit() or "." not in text or self._next.kind == "number":
                raise UnreadableError(r"\overline")
            tail = Fraction(int(repeated), 10 ** len(repeated) - 1)
            return Number((int((whole or "0") + digits) + tail) / 10 ** len(digits))
        if self._next.text == "_":
            raise UnreadableError("_")
        value = Fraction(int((whole or "0") + digits), 10 ** len(digits))
        return Number(value, len(digits) if value.denominator != 1 else None)

    def _letter(self, token: Token) -> Node:
        if token.text == "e":
            return Constant("e")
        if token.text == "i":
            return Constant("i")
        return Symbol(token.text)

    def _subscripted(self, node: Node) -> Node:
        if self._next.text != "_" or self._next.kind != "sign":
            return node
        self._place += 1
        name = node.name if isinstance(node, Symbol | Constant) else ""
        if self._accept("{"):
            depth, parts = 1, []
            while depth and self._next.kind != "end":
                token = self._take()
                depth += (token.text == "{") - (token.text == "}")
                parts += [token.text] if depth else []
            if depth:
                raise UnreadableError("_")
            return Symbol(f"{name}_{' '.join(parts)}")
        token = self._take()
        if token.kind == "number" and len(token.text) > 1 and token.tight and token.text.isdigit():
            return Symbol(f"{name}_{token.text}")
        if token.kind == "end":
            raise UnreadableError("_")
        return Symbol(f"{name}_{token.text}")

    def _bracketed(self, opening: str) -> Node:
        bars, self._bars = self._bars, 0
        node = self._statement()
        closing = self._expect(*_CLOSING[opening])
        self._bars = bars
        if isinstance(node, Sequence) and node.brackets == "":
            return Sequence(opening + closing, node.items)
        if opening + closing not in ("()", "[]"):
            raise UnreadableError(opening)
        return node

    def _command(self, token: Token) -> Node:
        name = token.text
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in _BARS:
            return self._rounded(name)
        if name in (r"\dot", r"\ddot"):
            return _differentiate(self._argument(), 1 if name == r"\dot" else 2)
        if name in _POINTED:
            return Symbol(f"{_POINTED[name]} {self._points()}")
        if name in _ACCENTS:
            return self._accented(name)
        if name in OPERATORS:
            return self._operation(name)
        if name in self._commands:
            return self._commands[name]()
        raise UnreadableError(name or "end")

    def _binomial(self) -> Node:
        return Call("binomial", (self._argument(), self._argument()))

    def _rounded(self, opening: str) -> Node:
        closing, function = _BARS[opening]
        bars, self._bars = self._bars, 0
        node = self._sum()
        self._expect(closing)
        self._bars = bars
        return Call(function, (node,))

    def _operation(self, name: str) -> Node:
        """Return an operator and everything up to the end of this side as the name of its value."""
        texts, depth = [name], 0
        while self._next.kind != "end":
            text = self._next.text
            if depth == 0 and (text in _ENDS or text in _RELATIONS):
                break
            depth += (text in ("(", "[", "{", r"\{")) - (text in (")", "]", "}", r"\}"))
            texts.append(self._take().text)
        return Symbol(" ".join(texts))

    def _fraction(self) -> Node:
        start = self._place
        above, below = self._raw_group(), self._raw_group()
        operation = _read_derivative(above, below)
        if operation == r"\frac{d}":
            self._place = start
            return self._operation(operation)
        if operation:
            return Symbol(operation)
        self._place = start
        return divide(self._argument(), self._argument())

    def _raw_group(self) -> list[str]:
        """Return the texts of the tokens of a group without nested groups, and step over it."""
        if not self._accept("{"):
            return []
        texts: list[str] = []
        while self._next.text not in ("{", "}") and self._next.kind != "end":
            texts.append(self._take().text)
        if self._next.text == "{" and texts and texts[-1] == "^" and self._ahead(2).text == "}":
            self._place += 1
            texts.append(self._take().text)
            self._place += 1
            while self._next.text not in ("{", "}") and self._next.kind != "end":
                texts.append(self._take().text)
        return texts if self._accept("}") else []

    def _root(self) -> Node:
        degree: Node = Number(Fraction(2))
        if self._accept("["):
            degree = self._sum()
            self._expect("]")
        return Call("root", (self._argument(), degree))

    def _braced(self) -> Node:
        # A bar or a colon separates the variable from its condition.
        bars, self._bars = self._bars, 1
        ratios, self._has_ratios = self._has_ratios, False
        first = self._statement()
        self._has_ratios = ratios
        if self._accept(":", "|", r"\mid"):
            condition = self._statement()
            self._expect(r"\}")
            self._bars = bars
            return Builder(first, condition)
        self._expect(r"\}")
        self._bars = bars
        if isinstance(first, Sequence) and first.brackets == "":
            return Sequence("{}", first.items)
        return Sequence("{}", (first,))

    def _blackboard(self) -> Node:
        letter = self._argument()
        name = letter.name if isinstance(letter, Symbol) else ""
        if name not in _BLACKBOARD:
            raise UnreadableError(r"\mathbb")
        if self._next.text in ("^", "_"):
            scripts: list[str] = []
            while self._next.text in (
                "^",
                "_",
                "{",
                "}",
                "+",
                "-",
                "*",
                r"\ge",
                ">",
                "<",
                r"\le",
                "0",
            ):
                scripts.append(self._take().text)
            name += "".join(scripts).translate(str.maketrans("", "", "{}"))
        return NamedSet(name)

    def _points(self) -> str:
        """Return the letters of `\\angle ABC`, the same for both directions."""
        grouped = self._accept("{")
        letters = ""
        while self._next.kind in ("letter", "number", "text") or self._next.text == "_":
            if self._next.text == "_":
                letters += str(self._subscripted(Symbol("")))
            else:
                letters += self._take().text
        if grouped:
            self._expect("}")
        if not letters:
            raise UnreadableError(r"\angle")
        return min(letters, letters[::-1])

    def _accented(self, accent: str) -> Node:
        node = self._argument()
        if isinstance(node, Product) and all(isinstance(part, Symbol) for part in node.factors):
            letters = "".join(part.name for part in node.factors if isinstance(part, Symbol))
            directed = accent == r"\vec"
            return Symbol(f"{accent} {letters if directed else min(letters, letters[::-1])}")
        if not isinstance(node, Symbol):
            raise UnreadableError(accent)
        if accent in _STYLES or accent == r"\vec":
            return self._subscripted(Symbol(node.name if accent in _STYLES else f"vec {node.name}"))
        return self._subscripted(Symbol(f"{accent} {node.name}"))

    def _matrix(self, opening: str) -> Node:
        name = opening.removeprefix(r"\begin{").removesuffix("}")
        if name not in _MATRICES:
            raise UnreadableError(opening)
        if name == "array" and self._accept("{"):
            while not self._accept("}"):
                if self._take().kind == "end":
                    raise UnreadableError(opening)
        rows: list[tuple[Node, ...]] = []
        row = [self._set()]
        while True:
            token = self._take()
            if token.text == "&":
                row.append(self._set())
                continue
            rows.append(tuple(row))
            if token.text == rf"\end{{{name}}}":
                break
            if token.text != r"\\":
                raise UnreadableError(token.text or "end")
            row = [self._set()]
        if len({len(row) for row in rows}) > 1:
            raise UnreadableError(opening)
        return Matrix(tuple(rows))

    def _function(self, name: str) -> Node:
        if self._next.kind == "end" or self._next.text == "=":
            return Symbol(name)
        base: Node | None = None
        exponent: Node | None = None
        while self._next.text in ("_", "^") and self._next.kind == "sign":
            if self._take().text == "_":
                base = self._script_base()
            else:
                exponent = self._script()
        arguments = (
            self._called_arguments(name) if name in _CALLED or name == "cis" else (self._applied(),)
        )
        if name == "lg":
            name, base = "log", Number(Fraction(10))
        if name == "log" and base is not None:
            arguments = (*arguments, base)
        elif base is not None:
            raise UnreadableError("_")
        if exponent == MINUS_ONE and name in _INVERSES:
            name, exponent = _INVERSES[name], None
        node = _call(name, arguments)
        return node if exponent is None else Power(node, exponent)

    def _script_base(self) -> Node:
        if self._next.kind == "number":
            return self._argument() if len(self._next.text) == 1 else self._primary()
        return self._script()

    def _called_arguments(self, name: str) -> tuple[Node, ...]:
        if self._next.text == "(":
            return self._arguments()
        if self._accept(r"\{"):
            node = self._list()
            self._expect(r"\}")
            return node.items if isinstance(node, Sequence) else (node,)
        if name in ("exp", "Re", "Im", "arg", "cis", "det"):
            return (self._applied(),)
        raise UnreadableError(name)

    def _applied(self) -> Node:
        """Return the argument of a function: a group, or the factors up to the next function."""
        if self._next.text in ("(", "[", "{", "|"):
            grouped = self._next.text != "|"
            node = self._primary()
            # `\\sin(x)^2` is a power of the function, read by the caller.
            return node if grouped or self._next.text != "^" else self._finish_power(node)
        if self._starts_with_sign() and self._accept("-"):
            return negate(self._applied())
        factors: list[Node] = []
        while self._next.kind in ("number", "letter", "text") or (
            self._next.kind == "command"
            and (
                self._next.text in (r"\frac", r"\sqrt", r"\binom")
                or self._next.text in _CONSTANTS
                or self._next.text in _ACCENTS
                or self._next.text in _POINTED
            )
        ):
            factors.append(self._power())
        if self._next.kind == "function" and not factors:
            return self._function(self._take().text)
        if not factors:
            raise UnreadableError(self._next.text or "end")
        node = factors[0] if len(factors) == 1 else Product(tuple(factors))
        if self._next.text == "/" and all(
            isinstance(factor, Number | Symbol | Constant) for factor in factors
        ):
            self._place += 1
            node = divide(node, self._power())
        return node

    def _finish_power(self, node: Node) -> Node:
        self._expect("^")
        return Power(node, self._script())


def _call(name: str, arguments: tuple[Node, ...]) -> Node:
    if name == "exp":
        return Power(Constant("e"), arguments[0])
    if name == "cis":
        return Sum(
            (
                Call("cos", arguments),
                Product((Constant("i"), Call("sin", arguments))),
            )
        )
    return Call(name, arguments)


def _multiply(left: Node, right: Node) -> Node:
    return Product((left, right))


def _cross(left: Node, right: Node) -> Node:
    """Return a product; the cross product if both sides are vectors."""
    if any(_is_vector(side) for side in (left, right)):
        return Call("cross", (left, right))
    return Product((left, right))


def _is_vector(node: Node) -> bool:
    return (isinstance(node, Symbol) and node.name.startswith(("vec ", r"\vec "))) or isinstance(
        node, Matrix
    )


def _raise(base: Node, exponent: Node, called: bool) -> Node:
    """Return a power; `f^{-1}(x)` is the inverse function, and a transposed matrix is not a power."""
    if called and exponent == MINUS_ONE and isinstance(base, Symbol):
        return Symbol(f"inverse {base.name}")
    if isinstance(base, (Sequence, NamedSet)):
        raise UnreadableError("^")
    if isinstance(exponent, Symbol) and exponent.name in ("T", r"\top") and _is_matrix_name(base):
        return Call("transpose", (base,))
    return Power(base, exponent)


def _is_matrix_name(node: Node) -> bool:
    return isinstance(node, Matrix) or (isinstance(node, Symbol) and node.name[-1:].isupper())


def _read_derivative(above: list[str], below: list[str]) -> str:
    r"""Return the symbol of `\frac{dy}{dx}` or `\frac{d^2y}{dx^2}`, `\frac{d}` if more is derived, else ""."""
    if (
        len(above) < 1
        or len(below) < 2
        or above[0] not in ("d", r"\partial")
        or below[0] != above[0]
    ):
        return ""
    order = above[2] if above[1:2] == ["^"] and len(above) > 2 else "1"
    derived = above[1:] if order == "1" else above[3:]
    variable = below[1]
    if not order.isdigit() or below[1:] != ([variable] if order == "1" else [variable, "^", order]):
        return ""
    if len(derived) != 1:
        return r"\frac{d}"
    return f"{derived[0]}{chr(39) * int(order[:2])}/{variable}"


def _differentiate(node: Node, order: int) -> Node:
    if isinstance(node, Symbol):
        return Symbol(node.name + "'" * order)
    raise UnreadableError("'")


def _to_mixed_number(before: Node, token: Token, tokens: list[Token], place: int) -> bool:
    r"""Whether `2\\frac{1}{3}` stands here: an integer and a proper fraction of integers."""
    if not isinstance(before, Number) or before.value.denominator != 1 or before.places is not None:
        return False
    if token.text != r"\frac" or tokens[place - 1].kind != "number":
        return False
    texts = [part.text for part in tokens[place + 1 : place + 7]]
    if texts[:1] == ["{"] and len(texts) == 6 and (texts[2], texts[3], texts[5]) == ("}", "{", "}"):
        above, below = texts[1], texts[4]
    else:
        return False
    return above.isdigit() and below.isdigit() and int(above[:9]) < int(below[:9])
