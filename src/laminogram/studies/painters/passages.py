"""The text that is read where none is given: short passages, written for this package alone, so
that no model was trained on them."""

PASSAGES = (
    "The ferry left the island an hour late, because the captain would not sail until the fog had "
    "lifted from the rocks. Nobody on board complained. An old woman unpacked bread and cheese and "
    "shared them with two boys who had never seen the mainland. When the engine at last began to "
    "shake the deck, one of them asked her whether the houses over there were as tall as people "
    "said, and she answered that he would soon have to look up.",
    "My uncle kept bees behind the railway line for thirty years, and he said that they could tell "
    "the slow trains from the fast ones. When an express went by they stayed inside the hive; when "
    "the goods train came they flew out as if nothing had happened. I never found out if this was "
    "true. He told it so often, and with such a serious face, that in the end the whole village "
    "repeated it to every stranger who asked about the honey.",
    "To find the height of a tree without climbing it, walk away until its top and its foot are "
    "seen at an angle of forty-five degrees. The distance to the trunk is then nearly the same as "
    "the height, if the ground is level. A sheet of paper folded from corner to corner gives the "
    "angle. Measure the distance with steps, add the height of your own eyes, and you will seldom "
    "be wrong by more than a tenth.",
    "The judge looked at the letter for a long time before he spoke. It had been written in haste, "
    "he said, and by someone who was afraid, but fear alone was no proof of guilt. He asked for "
    "the watch to be brought in again. The clerk laid it on the table, and the room grew so quiet "
    "that everyone could hear it ticking. Then the door at the back opened, and the man whom they "
    "had all believed to be dead walked in and took off his hat.",
    "Bread needs four things: flour, water, salt and time. Most of those who bake at home take too "
    "little of the last. A dough that has rested for a night in a cold room rises slowly, but it "
    "has more taste, and its crust is thin and brown. Do not be in a hurry to cut the loaf either. "
    "While it is hot the crumb is still setting, and a knife will press it together.",
    "In the year of the great flood the bridge was carried away in a single night. The miller saw "
    "it go. He stood at his window with a lamp, and he counted the arches as they fell, one after "
    "the other, from the far bank to the near one. In the morning there was nothing left but two "
    "stones in the middle of the stream, on which a dog was sitting, and it took the whole of the "
    "next day to bring it safely to land.",
    "The moon has no light of its own. What we see at night is sunlight that its grey dust sends "
    "back to us, and only about a tenth of what falls on it. It looks bright because the sky "
    "around it is black. By day, when it stands above the roofs in the afternoon, one can see how "
    "pale it really is, hardly different from a small cloud.",
    "She had learned the song from her grandmother, who had learned it from a sailor, and nobody "
    "knew any more what the words meant. They were in no language that was spoken along the coast. "
    "Once a professor came with a machine and asked her to sing it slowly, three times. He thanked "
    "her and went away, and a year later he wrote that he was sorry: he had asked everyone, and "
    "the song seemed to belong to no one but her.",
    "A good rule for buying a used bicycle is to look at it for ten minutes before asking what it "
    "costs. Turn the pedals backwards and listen. Lift the front wheel and let it spin; it should "
    "run for a while and stop gently, not with a jerk. Look along the frame from behind to see "
    "that the wheels stand in one line. If the chain is dry and the tyres are hard, the owner has "
    "forgotten it, and will be glad to hear any offer.",
    "The winter that followed was the hardest that anyone could remember. The wells froze, and the "
    "men had to break the ice with iron bars before the cattle could drink. Wolves were heard on "
    "the other side of the river. Yet the children were happy, since the school stayed closed for "
    "seven weeks, and in the evening all the families of one street sat together in one kitchen "
    "to save wood.",
    "When two people divide a cake, let one of them cut and the other one choose. With three the "
    "matter is harder. The first cuts what seems a third to him; the second may make the piece "
    "smaller if he thinks it too large; the third may do the same. Whoever touched the piece last "
    "must take it, and the two who are left share the rest in the old way. No one can complain, "
    "because everyone had the knife in his hand.",
    "He was not a tall man, and he spoke so softly that people leaned forward to hear him. This "
    "was his whole secret, his friends used to say. In a room full of loud voices the quiet one "
    "was followed. He would wait until the others were tired, then say a single sentence, and "
    "afterwards nobody could recall having wanted anything else. He lost only once, and that was "
    "against his own daughter, who whispered.",
)
